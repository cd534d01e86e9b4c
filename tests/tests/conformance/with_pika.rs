//! The scripts, played by pika: a Python program that is told the steps and prints what it saw.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::OnceLock,
};

use crate::{
    play::{Failure, Player, Seen},
    script::Step,
};

/// The version that is compared.
const VERSION: &str = "1.4.4";

const INSTALL: &str = "\
the conformance suite plays its scripts with pika, too, and there is no Python to run it. Install it:

    apt-get update && apt-get install -y --no-install-recommends python3 python3-pip

(tests/run does that).";

/// Where pika is, installed if it was not: a folder under target/, of this version alone.
fn installed() -> Result<PathBuf, String> {
    static INSTALLED: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    INSTALLED.get_or_init(install).clone()
}

fn install() -> Result<PathBuf, String> {
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    let directory = target.join(format!("pika-{VERSION}"));
    if directory.join("pika/__init__.py").exists() {
        return Ok(directory);
    }
    // Into another folder first: half an installation would be taken for a whole one.
    let scratch = target.join(format!("pika-{VERSION}.{}", std::process::id()));
    let output = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"])
        .args(["--no-warn-script-location", "--root-user-action=ignore"])
        .arg("--target")
        .arg(&scratch)
        .arg(format!("pika=={VERSION}"))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run python3: {error}\n\n{INSTALL}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("pip could not install pika {VERSION}:\n{said}\n\n{INSTALL}"));
    }
    // Another run may have been faster.
    if std::fs::rename(&scratch, &directory).is_err() {
        let _ = std::fs::remove_dir_all(&scratch);
    }
    Ok(directory)
}

pub struct Pika {
    child: Child,
    input: Option<ChildStdin>,
    /// What it prints, line by line.
    lines: tokio::sync::mpsc::UnboundedReceiver<String>,
}

impl Pika {
    pub fn new(url: &str) -> Result<Self, String> {
        let directory = installed()?;
        let player = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/pika/player.py");
        let mut child = Command::new("python3")
            .arg("-I")
            .arg("-S")
            .arg("-B")
            .arg(player)
            .arg(directory)
            .arg(url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot run python3: {error}\n\n{INSTALL}"))?;
        let output = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        let input = child.stdin.take();
        Ok(Self { child, input, lines })
    }
}

impl Player for Pika {
    async fn step(&mut self, step: &Step) -> Seen {
        let mut line = format!("{}\t{}\t--", step.verb, step.words.join("\t"));
        for (name, value) in &step.options {
            line +=
                &if value.is_empty() { format!("\t{name}") } else { format!("\t{name}={value}") };
        }
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{line}").map_err(Failure::other)?;
        self.lines.recv().await.ok_or_else(|| Failure::other("the player ended"))
    }

    async fn end(&mut self) {
        self.input = None;
        // Its output ends when it does.
        while self.lines.recv().await.is_some() {}
    }
}

impl Drop for Pika {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
