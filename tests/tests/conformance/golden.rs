//! Files of transcripts: one file a script, one section for all clients that saw the same.

use std::{collections::BTreeMap, fs, path::Path};

/// Transcripts by client.
pub type Transcripts = BTreeMap<String, String>;

const MARK: &str = "== ";

/// The transcripts in a file; none if there is no such file.
pub fn read(path: &Path) -> Transcripts {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => panic!("{}: {error}", path.display()),
    };
    let mut transcripts = Transcripts::new();
    let mut clients: Vec<&str> = Vec::new();
    for line in text.lines() {
        if let Some(names) = line.strip_prefix(MARK) {
            clients = names.split(", ").collect();
            continue;
        }
        for client in &clients {
            let transcript = transcripts.entry((*client).to_owned()).or_default();
            transcript.push_str(line);
            transcript.push('\n');
        }
    }
    transcripts
}

/// Writes them, or removes the file if there are none. Clients that saw the same share a section, in the
/// order of `clients`.
pub fn write(path: &Path, clients: &[&str], transcripts: &Transcripts) {
    let mut sections: Vec<(Vec<&str>, &str)> = Vec::new();
    for client in clients {
        let Some(transcript) = transcripts.get(*client) else { continue };
        match sections.iter_mut().find(|(_, other)| other == transcript) {
            Some((names, _)) => names.push(client),
            None => sections.push((vec![client], transcript)),
        }
    }
    if sections.is_empty() {
        let _ = fs::remove_file(path);
        return;
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let text: String = sections
        .iter()
        .map(|(names, transcript)| format!("{MARK}{}\n{transcript}", names.join(", ")))
        .collect();
    fs::write(path, text).unwrap();
}

/// What differs, step by step; empty if nothing does.
pub fn difference(expected: &str, got: &str) -> String {
    let (mut expected, mut got) = (expected.lines(), got.lines());
    let (mut step, mut difference) = ("", String::new());
    loop {
        let (want, have) = (expected.next(), got.next());
        if want.is_none() && have.is_none() {
            return difference;
        }
        if want == have {
            step = want.filter(|line| !line.starts_with(' ')).unwrap_or(step);
            continue;
        }
        let shown = |line: Option<&str>| line.unwrap_or("(the end)").trim_start().to_owned();
        difference +=
            &format!("  {step}\n    expected: {}\n    got:      {}\n", shown(want), shown(have));
    }
}
