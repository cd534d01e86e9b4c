//! The quickstarts as programs: started, and read.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio},
};

/// A quickstart that runs. Killed if it is dropped before it ends.
pub struct Quickstart {
    child: Child,
    out: BufReader<ChildStdout>,
    err: BufReader<ChildStderr>,
    /// What it said on standard error.
    pub said: String,
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a quickstart ended.
pub struct Ended {
    pub status: ExitStatus,
    pub last_line: String,
    pub said: String,
}

impl Ended {
    /// The numbers of the accounts line, which must be the last one and of exactly this form.
    pub fn accounts(&self) -> BTreeMap<&str, u64> {
        let fields = self.last_line.strip_prefix("accounts ").unwrap_or_else(|| {
            panic!("not the accounts: {:?}\n{}", self.last_line, self.said);
        });
        let numbers: Vec<(&str, u64)> = fields
            .split(' ')
            .map(|field| field.split_once('=').unwrap())
            .map(|(name, number)| (name, number.parse().unwrap()))
            .collect();
        let names: Vec<_> = numbers.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            [
                "accepted",
                "confirmed",
                "resent",
                "received_unique",
                "duplicates",
                "lost",
                "cuts",
                "reconnects"
            ]
        );
        numbers.into_iter().collect()
    }
}

impl Quickstart {
    pub fn start(runtime: &str, url: Option<&str>, arguments: &[&str]) -> Self {
        let program = match runtime {
            "tokio" => env!("CARGO_BIN_EXE_quickstart-tokio"),
            "smol" => env!("CARGO_BIN_EXE_quickstart-smol"),
            other => panic!("no quickstart on {other}"),
        };
        let mut command = Command::new(program);
        command.args(arguments).env_remove("AMQP_URL");
        if let Some(url) = url {
            command.env("AMQP_URL", url);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let err = BufReader::new(child.stderr.take().unwrap());
        let mut this = Self { child, out, err, said: String::new() };
        let first = this.line().unwrap_or_default();
        assert!(first.contains(&format!("on {runtime},")), "the wrong quickstart: {first:?}");
        this
    }

    /// The next line that it says on standard error; `None` at its end.
    fn line(&mut self) -> Option<String> {
        let from = self.said.len();
        self.err.read_line(&mut self.said).unwrap();
        (self.said.len() > from).then(|| self.said[from..].to_owned())
    }

    /// Reads on until so many orders are confirmed.
    pub fn until_confirmed(&mut self, count: u64) {
        while let Some(line) = self.line() {
            let confirmed = line.split(' ').find_map(|word| word.strip_prefix("confirmed="));
            if confirmed.is_some_and(|confirmed| confirmed.parse::<u64>().unwrap() >= count) {
                return;
            }
        }
        panic!("the quickstart ended before {count} confirms:\n{}", self.said);
    }

    /// Reads on to its end.
    pub fn end(mut self) -> Ended {
        while self.line().is_some() {}
        let mut last_line = String::new();
        for line in self.out.by_ref().lines() {
            last_line = line.unwrap();
        }
        let status = self.child.wait().unwrap();
        Ended { status, last_line, said: std::mem::take(&mut self.said) }
    }
}
