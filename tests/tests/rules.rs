//! Rules of the house that a compiler does not check: who may depend on what, and who may look at
//! a clock.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The names of the crates below a package, as users of it get them.
fn tree(package: &str) -> Vec<String> {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .args(["tree", "-e", "normal,build", "--prefix", "none", "--all-features", "-p", package])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<_> =
        text.lines().filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect();
    assert!(names.iter().any(|name| name == "amq-protocol"), "not a tree: {text}");
    names
}

fn assert_without(package: &str, unwanted: &[&str]) {
    let tree = tree(package);
    for name in unwanted {
        assert!(!tree.iter().any(|found| found == name), "{package} depends on {name}");
    }
}

#[test]
fn the_core_needs_no_runtime() {
    let runtimes =
        ["tokio", "smol", "async-io", "async-std", "async-global-executor", "async-executor"];
    assert_without("lavinmq-core", &runtimes);
    assert_without("lavinmq-core", &["lapin", "lavinmq-tokio", "lavinmq-smol", "lavinmq-testing"]);
}

#[test]
fn each_runtime_crate_brings_its_own_runtime_alone() {
    assert_without("lavinmq-tokio", &["smol", "async-io", "lapin", "lavinmq-smol"]);
    assert_without("lavinmq-smol", &["tokio", "lapin", "lavinmq-tokio"]);
}

#[test]
fn the_in_process_broker_depends_on_the_core_alone() {
    assert_without("lavinmq-testing", &["lavinmq-tokio", "lavinmq-smol", "tokio", "smol", "lapin"]);
}

fn rust_files(under: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Where `attribute` relaxes the list in core/clippy.toml. It may span lines.
fn relaxations(text: &str) -> Vec<&str> {
    let starts = text.match_indices("clippy::disallowed").map(|(at, _)| at);
    starts
        .map(|at| {
            let from = text[..at].rfind("#[").max(text[..at].rfind("#![")).unwrap_or(at);
            let to = text[at..].find(")]").map_or(text.len(), |end| at + end + 2);
            &text[from..to]
        })
        .collect()
}

#[test]
fn only_the_client_and_the_driver_touch_clocks_locks_and_wakers() {
    let source = root().join("core/src");
    let mut files = Vec::new();
    rust_files(&source, &mut files);
    assert!(files.len() > 5, "core/src was not read");
    let mut wrong = Vec::new();
    for path in files {
        let name = path.strip_prefix(&source).unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let may = name.starts_with("client")
            || name.starts_with("driver")
            || name == Path::new("driver.rs");
        for attribute in relaxations(&text) {
            let has_reason = attribute.contains("expect(") && attribute.contains("reason");
            if !may || !has_reason {
                wrong.push(format!("{}: {attribute}", name.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "only core/src/client/ and core/src/driver* may relax core/clippy.toml, \
         by `expect(…, reason = …)`:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn core_forbids_clocks_threads_sockets_locks_and_random_hashers() {
    let rules = fs::read_to_string(root().join("core/clippy.toml")).unwrap();
    for path in [
        "std::time::Instant::now",
        "std::time::SystemTime::now",
        "std::thread::sleep",
        "std::thread::spawn",
        "std::net::TcpStream",
        "std::net::TcpListener",
        "std::net::UdpSocket",
        "std::sync::Mutex",
        "std::sync::RwLock",
        "std::sync::Condvar",
        "std::collections::HashMap",
        "std::collections::HashSet",
        "std::hash::RandomState",
        "std::task::Waker",
    ] {
        assert!(rules.contains(&format!("path = \"{path}\"")), "core/clippy.toml allows {path}");
    }
}
