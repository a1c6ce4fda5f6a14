//! The example of every manual page in section 3 compiles, without warnings, and every function
//! of the headers has a page.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use common::{Scratch, compile, manifest};

/// The pages that are not just links to others.
fn pages() -> Vec<(PathBuf, String)> {
    let files = fs::read_dir(manifest("../../man")).unwrap().map(|entry| entry.unwrap().path());
    let sources = files
        .filter(|path| path.extension().is_some_and(|e| e == "3"))
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()));
    sources.filter(|(_, source)| !source.starts_with(".so ")).collect()
}

/// The literal block of section EXAMPLES, as a reader of the page sees it.
fn example(source: &str) -> Option<String> {
    let section = source.split_once(".Sh EXAMPLES\n")?.1.split("\n.Sh ").next()?;
    let block = section.split_once(".Bd -literal\n")?.1.split_once("\n.Ed")?.0;
    Some(block.replace("\\&", "").replace("\\e", "\\") + "\n")
}

#[test]
fn every_example_compiles() {
    let scratch = Scratch::new();
    let pages = pages();
    assert!(pages.len() >= 13, "{pages:?}");
    for (path, source) in pages {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let text = example(&source).unwrap_or_else(|| panic!("{name} has no example"));
        let file = scratch.path(&format!("{name}.c"));
        fs::write(&file, text).unwrap();
        compile(&scratch, &file, &format!("{name}-example"));
    }
}

#[test]
fn every_function_has_a_page() {
    for header in ["starttls.h", "async.h"] {
        let header = fs::read_to_string(manifest("include/tlspool").join(header)).unwrap();
        for line in header.lines().filter(|line| !line.starts_with(['/', ' ', '#', '}', '{'])) {
            let Some((before, _)) = line.split_once('(') else { continue };
            let name = before.rsplit([' ', '*']).next().unwrap();
            let page = manifest("../../man").join(format!("{name}.3"));
            assert!(page.exists(), "{name} has no manual page");
        }
    }
}

#[test]
fn mandoc_has_no_complaints() {
    for (path, _) in pages() {
        let Ok(output) =
            Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(&path).output()
        else {
            return; // not on this machine
        };
        let complaints = String::from_utf8_lossy(&output.stdout);
        let real: Vec<_> = complaints.lines().filter(|line| line.contains(".3:")).collect();
        assert!(real.is_empty(), "{real:?}");
    }
}
