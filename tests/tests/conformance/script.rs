//! Scenarios: small scripts in one neutral form, which every client plays (README.md lists the verbs).

use std::{collections::BTreeSet, fs, path::Path};

/// The verbs, and how many words each has. Flags (`passive`) and options (`x-max-length=i32:5`)
/// follow the words, in any order.
const VERBS: &[(&str, usize)] = &[
    ("connect", 1),
    ("channel", 1),
    ("close", 1),
    ("disconnect", 1),
    ("declare", 2),
    ("delete", 2),
    ("purge", 2),
    ("bind", 4),
    ("unbind", 4),
    ("exchange", 3),
    ("exchange-delete", 2),
    ("exchange-bind", 4),
    ("exchange-unbind", 4),
    ("confirm-select", 1),
    ("tx-select", 1),
    ("tx-commit", 1),
    ("tx-rollback", 1),
    ("publish", 4),
    ("confirm", 1),
    ("returned", 1),
    ("get", 2),
    ("until", 2),
    ("qos", 2),
    ("consume", 3),
    ("deliver", 2),
    ("idle", 2),
    ("ack", 2),
    ("nack", 2),
    ("reject", 2),
    ("cancel", 2),
    ("cancelled", 2),
    ("recover", 1),
    ("flow", 2),
    ("closed", 1),
];

/// One step, with the names of its queues and exchanges made unique for the run.
#[derive(Clone, Debug)]
pub struct Step {
    /// The line in the script.
    pub line: String,
    pub verb: String,
    pub words: Vec<String>,
    /// Flags have an empty value.
    pub options: Vec<(String, String)>,
}

impl Step {
    pub fn word(&self, at: usize) -> &str {
        &self.words[at]
    }

    pub fn flag(&self, name: &str) -> bool {
        self.options.iter().any(|(key, value)| key == name && value.is_empty())
    }

    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Options that start with `prefix`, without it; each a field of a table, `TYPE:VALUE`.
    pub fn fields<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.options
            .iter()
            .filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value.as_str())))
    }

    fn parse(line: &str) -> Self {
        let mut tokens = line.split_whitespace().map(|token| match token {
            "\"\"" => String::new(),
            token => token.to_owned(),
        });
        let verb = tokens.next().unwrap_or_default();
        let count = VERBS.iter().find(|(known, _)| *known == verb).map(|(_, count)| *count);
        let count = count.unwrap_or_else(|| panic!("unknown verb: {line}"));
        let words: Vec<_> = tokens.by_ref().take(count).collect();
        assert_eq!(words.len(), count, "{verb} has {count} words: {line}");
        let options = tokens
            .map(|token| match token.split_once('=') {
                Some((key, value)) => (key.to_owned(), value.to_owned()),
                None => (token, String::new()),
            })
            .collect();
        Self { line: line.to_owned(), verb, words, options }
    }

    /// Which words name queues or exchanges of the scenario's own.
    fn names(&self) -> &'static [usize] {
        match self.verb.as_str() {
            "declare" | "delete" | "purge" | "exchange" | "exchange-delete" | "get" | "until"
            | "consume" => &[1],
            "bind" | "unbind" | "exchange-bind" | "exchange-unbind" => &[1, 2],
            // To the default exchange, the routing key is a queue.
            "publish" if self.words[1].is_empty() => &[2],
            "publish" => &[1],
            _ => &[],
        }
    }
}

#[derive(Clone, Debug)]
pub struct Script {
    pub name: String,
    pub steps: Vec<Step>,
    /// Clients that cannot play it, and why.
    without: Vec<(String, String)>,
}

impl Script {
    /// All scripts in a directory, by name.
    pub fn all(directory: &Path) -> Vec<Self> {
        let mut scripts: Vec<_> = fs::read_dir(directory)
            .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
            .map(|entry| entry.unwrap().path())
            .map(|path| {
                let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                Self::parse(name, &fs::read_to_string(&path).unwrap())
            })
            .collect();
        scripts.sort_by(|a, b| a.name.cmp(&b.name));
        scripts
    }

    fn parse(name: String, text: &str) -> Self {
        let (mut steps, mut without) = (Vec::new(), Vec::new());
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
            } else if let Some(rest) = line.strip_prefix("without ") {
                let (client, why) = rest.split_once(": ").expect("without CLIENT: REASON");
                without.push((client.to_owned(), why.to_owned()));
            } else {
                steps.push(Step::parse(line));
            }
        }
        Self { name, steps, without }
    }

    /// Its name, and the clients that cannot play it, and why.
    pub fn without(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.without.iter().map(|(client, why)| (&*self.name, &**client, &**why))
    }

    /// Why a client cannot play this, if it cannot.
    pub fn lacking(&self, client: &str) -> Option<&str> {
        self.without.iter().find(|(name, _)| name == client).map(|(_, why)| why.as_str())
    }

    /// The same with names that nobody else uses. Those of the server's and variables (`amq.…`, `?`,
    /// `$x`) stay; in an option, `@` stands before a name.
    pub fn scoped(&self, prefix: &str) -> Self {
        let mut scoped = self.clone();
        for step in &mut scoped.steps {
            for at in step.names() {
                let word = &mut step.words[*at];
                if !word.is_empty() && !word.starts_with(['?', '$']) && !word.starts_with("amq.") {
                    word.insert_str(0, prefix);
                }
            }
            for (_, value) in &mut step.options {
                *value = value.replace('@', prefix);
            }
        }
        scoped
    }

    /// The queues and exchanges that it declares.
    pub fn declared(&self, verb: &str) -> BTreeSet<&str> {
        let declares = self.steps.iter().filter(|step| step.verb == verb);
        declares.map(|step| step.words[1].as_str()).collect()
    }
}

/// A body as the script has it: `size:N` is N bytes of a pattern, `""` is none.
pub fn body(word: &str) -> Vec<u8> {
    match word.strip_prefix("size:") {
        Some(size) => (0..size.parse::<usize>().unwrap()).map(|at| (at % 251) as u8).collect(),
        None => word.as_bytes().to_vec(),
    }
}

/// A body as the transcript shows it: text, or its size and Adler-32 checksum.
pub fn show_body(body: &[u8]) -> String {
    if body.len() <= 64 {
        return format!("{:?}", String::from_utf8_lossy(body));
    }
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in body {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    format!("{} bytes, checksum {}", body.len(), (b << 16) | a)
}
