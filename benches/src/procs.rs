//! Programs under measurement: started here, followed through /proc, ended here.
//!
//! Nothing is ever ended by name: only what this program started, by its process id.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::error::{During, Result};

/// How long a program may take to end before it is killed.
const END_TIME: Duration = Duration::from_secs(5);

/// Programs that together are one candidate, in the order they were started.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    children: Vec<(String, Child)>,
    /// Where their messages go.
    log: PathBuf,
}

impl Programs {
    /// None yet; their messages will be in `log`.
    pub(crate) fn new(log: PathBuf) -> Self {
        Self { children: Vec::new(), log }
    }

    /// Starts `program`; it ends with this process, even if this process is killed.
    pub(crate) fn start(
        &mut self,
        program: &Path,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Result<u32> {
        let log = File::options().create(true).append(true).open(&self.log).during("log file")?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(program)
            .args(args)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().during("log file")?)
            .stderr(log)
            .spawn()
            .during(format!("starting {}", program.display()))?;
        let id = child.id();
        self.children.push((program.display().to_string(), child));
        Ok(id)
    }

    /// The first program that has ended, if any did.
    pub(crate) fn ended(&mut self) -> Option<String> {
        self.children.iter_mut().find_map(|(name, child)| {
            let status = child.try_wait().ok()??;
            Some(format!("{name} ended: {status}"))
        })
    }

    /// The end of what they said.
    pub(crate) fn messages(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).into_owned()
    }

    /// Process ids of all programs and their descendants.
    pub(crate) fn all(&self) -> Result<Vec<u32>> {
        let parents = parents()?;
        let mut tree: Vec<u32> = self.children.iter().map(|(_, child)| child.id()).collect();
        let mut at = 0;
        while let Some(parent) = tree.get(at).copied() {
            tree.extend(parents.iter().filter(|(_, p)| **p == parent).map(|(pid, _)| *pid));
            at += 1;
        }
        Ok(tree)
    }

    /// CPU time, user and system, that each has used so far; processes of one name together.
    pub(crate) fn cpu(&self) -> Result<HashMap<String, Duration>> {
        let tick = Duration::from_nanos(1_000_000_000 / rustix::param::clock_ticks_per_second());
        let mut by_name: HashMap<String, Duration> = HashMap::new();
        for pid in self.all()? {
            // One that has ended meanwhile is left out.
            let Some((name, ticks)) = cpu_ticks(pid) else { continue };
            *by_name.entry(name).or_default() += tick * u32::try_from(ticks).unwrap_or(u32::MAX);
        }
        Ok(by_name)
    }

    /// Proportional set size of all of them, in KiB.
    pub(crate) fn pss_kib(&self) -> Result<u64> {
        Ok(self.all()?.into_iter().filter_map(pss_kib).sum())
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        // The last started first: it may depend on those before. Descendants are looked up before
        // their parents end and lose them.
        let descendants = self.all().unwrap_or_default();
        for (_, child) in self.children.iter_mut().rev() {
            end(child);
        }
        for pid in descendants {
            if let Some(pid) = Pid::from_raw(pid as i32).filter(|p| parent_is_gone(*p)) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// TERM, and KILL if that does not help in time.
fn end(child: &mut Child) {
    let Some(pid) = Pid::from_raw(child.id() as i32) else { return };
    if matches!(child.try_wait(), Ok(None)) {
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
    let deadline = Instant::now() + END_TIME;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether this descendant still exists and lost its parent (so that it was not waited for, and
/// its id was not given to another process of ours).
fn parent_is_gone(pid: Pid) -> bool {
    stat(pid.as_raw_nonzero().get() as u32)
        .and_then(|fields| fields.get(1)?.parse::<u32>().ok())
        .is_some_and(|parent| parent == 1)
}

/// Every process and its parent.
fn parents() -> Result<HashMap<u32, u32>> {
    let entries = fs::read_dir("/proc").during("reading /proc")?;
    Ok(entries
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            Some((pid, stat(pid)?.get(1)?.parse().ok()?))
        })
        .collect())
}

/// Fields of /proc/PID/stat after the name, so that field 0 is the state (proc(5) counts it as 3).
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

/// utime and stime: fields 14 and 15 of proc(5).
fn cpu_ticks(pid: u32) -> Option<(String, u64)> {
    let fields = stat(pid)?;
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some((name.trim().to_owned(), ticks))
}

fn pss_kib(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("Pss:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Runs a helper program to its end and returns what it printed.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let out = command.stdin(Stdio::null()).output().during(shown.clone())?;
    let text = [out.stdout, out.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    if out.status.success() {
        Ok(text)
    } else {
        Err(crate::error::BenchError::Command { command: shown, output: text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_and_ends_a_tree() {
        let dir = tempfile::tempdir().unwrap();
        let mut programs = Programs::new(dir.path().join("log"));
        programs.start(Path::new("/bin/sh"), &["-c", "sleep 100 & wait"], &[]).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while programs.all().unwrap().len() < 2 {
            assert!(Instant::now() < deadline, "the shell never started its child");
            std::thread::yield_now();
        }
        assert!(programs.pss_kib().unwrap() > 0);
        let tree = programs.all().unwrap();
        drop(programs);
        for pid in tree {
            // An orphan was sent KILL, and perhaps its end was not seen by init yet.
            let gone = |pid| stat(pid).is_none_or(|fields| fields[0] == "Z");
            while !gone(pid) {
                assert!(Instant::now() < deadline, "{pid} still runs");
                std::thread::yield_now();
            }
        }
    }
}
