//! A program in C and the same in Python, written against our libraries, which a test compiles and runs in a house.

use std::path::PathBuf;
use std::process::Command;

use crate::binaries::{program, workspace};
use crate::{House, run};

/// Where its sources are.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// The folder, from the workspace's.
    pub folder: &'static str,
    /// `NAME.c` and `NAME.py`.
    pub name: &'static str,
}

impl Program {
    fn source(self, ending: &str) -> PathBuf {
        workspace().join(self.folder).join(self.name).with_extension(ending)
    }

    /// Compiles the program in C into the house's folder.
    pub fn compile(self, house: &House) {
        for link in ["libtlspool.so", "libtlspool.so.0"] {
            std::fs::copy(program("libtlspool.so"), house.path(link)).expect("a copy");
        }
        let mut command = Command::new("cc");
        command.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o"]);
        command.arg(house.path(self.name)).arg(self.source("c")).arg("-I");
        command.arg(workspace().join("crates/libtlspool/include")).arg("-L").arg(house.path(""));
        let said = run(command.arg("-ltlspool"));
        assert!(said.ok, "{}", said.err);
    }

    /// The program in the house, in Python or as it was compiled.
    pub fn inhabitant(self, house: &House, python: bool, arguments: &[&str]) -> Command {
        let mut command = if python {
            let mut command = Command::new("python3");
            command.arg(self.source("py")).env("PYTHONPATH", workspace().join("python"));
            command.env("PYTHONDONTWRITEBYTECODE", "1");
            command
        } else {
            Command::new(house.path(self.name))
        };
        house.outfit(&mut command).env("LD_LIBRARY_PATH", house.path("")).args(arguments);
        command
    }
}
