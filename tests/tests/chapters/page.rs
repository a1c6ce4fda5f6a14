//! What a page tells its reader to do.

use tlspool_tests::binaries::workspace;

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A command at a prompt, and the lines that the page shows after it.
    Command { line: String, shown: Vec<String> },
    /// A command within the text.
    Inline(String),
    /// Lines for a file.
    Lines(Vec<String>),
}

/// The steps of a page of docs/, in its order.
pub(crate) fn steps(name: &str) -> Vec<Step> {
    let text = std::fs::read_to_string(workspace().join("docs").join(name)).expect("a page");
    let mut steps = Vec::new();
    let mut block: Vec<&str> = Vec::new();
    let mut prose = String::new();
    for line in text.lines().chain([""]) {
        if let Some(code) = line.strip_prefix("    ") {
            inline(&std::mem::take(&mut prose), &mut steps);
            block.push(code);
        } else {
            session(&std::mem::take(&mut block), &mut steps);
            prose = prose + line + " ";
        }
    }
    inline(&prose, &mut steps);
    steps
}

/// The command at a prompt, without the comment behind it.
fn prompted(line: &str) -> Option<String> {
    let command = line.strip_prefix("$ ").or_else(|| line.strip_prefix("# "))?;
    Some(command.split(" # ").next()?.trim().to_owned())
}

fn session(block: &[&str], steps: &mut Vec<Step>) {
    let Some(first) = block.first() else { return };
    if prompted(first).is_none() {
        let lines = block.iter().map(|line| (*line).to_owned()).collect();
        steps.push(Step::Lines(lines));
        return;
    }
    for line in block {
        match (prompted(line), steps.last_mut()) {
            (Some(line), _) => steps.push(Step::Command { line, shown: Vec::new() }),
            (None, Some(Step::Command { shown, .. })) => shown.push((*line).to_owned()),
            (None, _) => unreachable!("the first is a command"),
        }
    }
}

fn inline(prose: &str, steps: &mut Vec<Step>) {
    let spans = prose.split('`').skip(1).step_by(2);
    // Some are names of a command, as one word more or less.
    let commands = spans.filter(|span| span.starts_with("tlspool ") && span.split(' ').count() > 2);
    steps.extend(commands.map(|command| Step::Inline(command.to_owned())));
}

/// Asserts that `said` has the lines that the page shows, in their order. `...` on the page stands for anything, and
/// so do `1a2b...` and a serial number.
#[track_caller]
pub(crate) fn assert_shown(command: &str, said: &str, shown: &[String]) {
    let mut lines = said.lines();
    for wanted in shown {
        let is_there = lines.any(|line| fits(line, wanted));
        assert!(is_there, "{command}: the page shows {wanted:?}, the command says:\n{said}");
    }
}

fn fits(line: &str, wanted: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (line, wanted) = (words(line), words(wanted));
    let wanted = wanted.replace("1a2b...", "...").replace("81ef85926ff84bb4", "...");
    let mut rest = line.as_str();
    let mut parts = wanted.split("...");
    let first = parts.next().unwrap_or_default();
    let Some(after) = rest.strip_prefix(first) else { return false };
    rest = after;
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        last = Some(part);
    }
    rest.is_empty() || last == Some("")
}

#[test]
fn dots_stand_for_anything() {
    assert!(fits("a.  IN TLSA 3 1 1 00ff", "a. IN TLSA 3 1 1 1a2b..."));
    assert!(fits("to do: x (here): add y z", "to do: x (...): add y ..."));
    assert!(!fits("to do: x (here): add z", "to do: x (...): add y ..."));
    assert!(!fits("believes it, by dane", "believes it"));
    assert!(!fits("believes it", "believes it, by ..."));
}

#[test]
fn a_page_is_read_in_its_order() {
    let all = steps("key-on-a-token.md");
    let place = |wanted: &dyn Fn(&Step) -> bool| all.iter().position(wanted).expect("a step");
    let module = place(
        &|step| matches!(step, Step::Lines(lines) if lines.contains(&"[[keys.module]]".to_owned())),
    );
    let list = place(
        &|step| matches!(step, Step::Command { line, shown } if line == "tlspool token list" && shown.len() == 2),
    );
    let show =
        place(&|step| *step == Step::Inline("tlspool token show pkcs11:token=web".to_owned()));
    assert!(module < list && list < show);
}
