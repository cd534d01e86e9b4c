//! The in-process broker against RabbitMQ, as clients see them that others wrote: lapin, amqprs and
//! pika play the same scripts (scenarios/) on both, and what they saw must be the same
//! (README.md). RabbitMQ's transcripts are kept in golden/: the in-process broker is compared with
//! these, and RabbitMQ too, so that they stay true.
//!
//!     cargo test -p lavinmq-tests --test conformance                  everything
//!     cargo test -p lavinmq-tests --test conformance -- in_process    needs no RabbitMQ
//!
//! RabbitMQ is one of the suite's own (Debian's `rabbitmq-server`), or the one at `AMQP_TEST_URL`.
//! `CONFORMANCE_RECORD=golden … -- rabbitmq` writes the golden files anew, and
//! `CONFORMANCE_RECORD=differences … -- in_process` the known differences (differences/); both are then
//! to be read before they are committed. `CONFORMANCE_TIMES=1` tells how long each script took.

// A test that cannot go on fails: that is what these are for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, OnceLock},
};

use lavinmq_testing::Personality;
use lavinmq_tests::live::broker::{Broker, Product};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::{golden::Transcripts, script::Script};

mod golden;
mod play;
mod script;
mod value;
mod with_amqprs;
mod with_lapin;
mod with_pika;

const CLIENTS: [&str; 3] = ["lapin", "amqprs", "pika"];

/// What all trials share.
struct Suite {
    scripts: Vec<Script>,
    rabbitmq: OnceLock<Result<Broker, String>>,
    /// What is to be recorded, if anything: the folder.
    record: Option<String>,
    /// By script.
    recorded: Mutex<BTreeMap<String, Transcripts>>,
}

impl Suite {
    /// RabbitMQ, started when it is first needed.
    fn rabbitmq(&self) -> Result<&Broker, Failed> {
        self.rabbitmq.get_or_init(Broker::from_env).as_ref().map_err(|why| why.as_str().into())
    }

    /// Whether these transcripts are recorded, not compared.
    fn records(&self, folder: &str) -> bool {
        self.record.as_deref() == Some(folder)
    }

    fn record(&self, client: &str, script: &Script, transcript: String) {
        let mut recorded = self.recorded.lock().unwrap();
        recorded.entry(script.name.clone()).or_default().insert(client.to_owned(), transcript);
    }

    /// Writes what was recorded. Of differences, only those that are.
    fn write(&self) {
        let Some(folder) = &self.record else { return };
        for script in &self.scripts {
            let Some(new) = self.recorded.lock().unwrap().remove(&script.name) else { continue };
            let path = file(folder, script);
            let mut all = golden::read(&path);
            all.extend(new);
            if folder == "differences" {
                let golden = golden::read(&file("golden", script));
                all.retain(|client, transcript| golden.get(client) != Some(transcript));
            }
            golden::write(&path, &CLIENTS, &all);
        }
    }
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance")
}

/// The virtual host of a URL.
fn vhost(url: &url::Url) -> String {
    let path = url.path().trim_start_matches('/').replace("%2f", "/").replace("%2F", "/");
    if path.is_empty() { "/".to_owned() } else { path }
}

/// Plays a script with a client, and says what it saw, with names as in the script.
fn transcript(url: &str, client: &str, script: &Script) -> Result<String, Failed> {
    // Of one length everywhere: the server cuts long texts with names in them.
    let number = script.name.get(..2).unwrap_or_default();
    let initial = client.get(..1).unwrap_or_default();
    let prefix = format!("conformance-{:08}{initial}{number}-", std::process::id());
    let scoped = script.scoped(&prefix);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let steps = &scoped.steps;
    let transcript = match client {
        "lapin" => runtime.block_on(play::play(&mut with_lapin::Lapin::new(url), steps)),
        "amqprs" => runtime.block_on(play::play(&mut with_amqprs::Amqprs::new(url), steps)),
        "pika" => runtime.block_on(play::play(&mut with_pika::Pika::new(url)?, steps)),
        _ => panic!("no client {client}"),
    };
    runtime.shutdown_background();
    if env::var_os("AMQP_TEST_URL").is_some() {
        remove(url, &scoped);
    }
    let url = url::Url::parse(url).unwrap();
    let transcript = transcript
        .replace(&prefix, "")
        .replace(&format!("in vhost '{}'", vhost(&url)), "in vhost '/'")
        .replace(&format!("was '{}'", url.username()), "was 'guest'");
    let transcript = generated(&generated(&transcript, "amq.gen-"), "amq.ctag-");
    Ok(generated(&transcript, "time=timestamp:"))
}

/// The names that the server makes up after `prefix`, all alike.
fn generated(text: &str, prefix: &str) -> String {
    let mut parts = text.split(prefix);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "-_".contains(c));
        out += &format!("{prefix}…{rest}");
    }
    out
}

/// Leaves nothing of a script in somebody's broker.
fn remove(url: &str, script: &Script) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let connection = lapin::Connection::connect(url, Default::default()).await.unwrap();
        for queue in script.declared("declare").into_iter().filter(|name| *name != "?") {
            let channel = connection.create_channel().await.unwrap();
            let _ = channel.queue_delete(queue.into(), Default::default()).await;
        }
        for exchange in script.declared("exchange") {
            let channel = connection.create_channel().await.unwrap();
            let _ = channel.exchange_delete(exchange.into(), Default::default()).await;
        }
        let _ = connection.close(200, "done".into()).await;
    });
}

fn file(folder: &str, script: &Script) -> PathBuf {
    here().join(folder).join(format!("{}.txt", script.name))
}

fn compare(expected: &str, got: &str, of: &str) -> Result<(), Failed> {
    let difference = golden::difference(expected, got);
    if difference.is_empty() { Ok(()) } else { Err(format!("{of}:\n{difference}").into()) }
}

/// RabbitMQ's transcript of a script.
fn golden_of(client: &str, script: &Script) -> Result<String, Failed> {
    let missing = "no golden transcript: record it (CONFORMANCE_RECORD=golden)";
    golden::read(&file("golden", script)).remove(client).ok_or_else(|| missing.into())
}

/// The in-process broker gives RabbitMQ's transcript, or exactly the known difference.
fn in_process(suite: &Suite, client: &str, script: &Script) -> Result<Completion, Failed> {
    let golden = golden_of(client, script)?;
    let known = golden::read(&file("differences", script)).remove(client);
    if known.as_ref() == Some(&golden) && !suite.records("differences") {
        return Err("differences/ has a transcript that is RabbitMQ's: remove it".into());
    }
    let started = std::time::Instant::now();
    let broker = lavinmq_testing::Broker::builder().personality(Personality::RabbitMq).start()?;
    let got = transcript(&broker.url(), client, script)?;
    if env::var_os("CONFORMANCE_TIMES").is_some() {
        eprintln!("{:6.2} s  {client} {}", started.elapsed().as_secs_f64(), script.name);
    }
    if suite.records("differences") {
        suite.record(client, script, got);
        return Ok(Completion::Completed);
    }
    match known {
        None => compare(&golden, &got, "not as RabbitMQ")?,
        Some(known) => compare(&known, &got, "not the known difference from RabbitMQ")?,
    }
    Ok(Completion::Completed)
}

/// RabbitMQ still says what the golden file has.
fn rabbitmq(suite: &Suite, client: &str, script: &Script) -> Result<Completion, Failed> {
    let broker = suite.rabbitmq()?;
    if broker.product != Product::RabbitMq {
        return Ok(Completion::ignored_with("the broker at AMQP_TEST_URL is not RabbitMQ"));
    }
    let got = transcript(&broker.url, client, script)?;
    if suite.records("golden") {
        suite.record(client, script, got);
        return Ok(Completion::Completed);
    }
    compare(&golden_of(client, script)?, &got, "RabbitMQ is not as its golden file")?;
    Ok(Completion::Completed)
}

/// Nothing is compared less than it seems: at least thirty scripts for each client, every file of
/// transcripts belongs to a script, every known difference and every script that a client cannot play is
/// explained, and no transcript hides that a client failed.
fn is_whole(suite: &Suite) -> Result<(), Failed> {
    let mut wrong = Vec::new();
    for client in CLIENTS {
        let count = suite.scripts.iter().filter(|script| script.lacking(client).is_none()).count();
        if count < 30 {
            wrong.push(format!("{client} plays {count} scripts of at least 30"));
        }
    }
    let readme = std::fs::read_to_string(here().join("README.md"))?;
    for (script, client, why) in suite.scripts.iter().flat_map(Script::without) {
        if !readme.contains(&format!("| {script} | {client} | {why} |")) {
            wrong.push(format!("README.md does not say that {script} is not for {client}: {why}"));
        }
    }
    for folder in ["golden", "differences"] {
        let Ok(entries) = std::fs::read_dir(here().join(folder)) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let Some(script) = suite.scripts.iter().find(|script| script.name == name) else {
                wrong.push(format!("{folder}/{name}.txt belongs to no script"));
                continue;
            };
            if folder == "differences" && !readme.contains(&format!("| {name} |")) {
                wrong.push(format!("README.md does not explain differences/{name}.txt"));
            }
            for (client, transcript) in golden::read(&path) {
                if script.lacking(&client).is_some() {
                    wrong.push(format!("{folder}/{name}.txt has {client}, which cannot play it"));
                }
                for line in transcript.lines() {
                    if ["    error: ", "    nothing within "]
                        .iter()
                        .any(|bad| line.starts_with(bad))
                    {
                        wrong.push(format!("{folder}/{name}.txt: {client}: {}", line.trim()));
                    }
                }
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    let whole = Arc::clone(suite);
    let mut trials = vec![Trial::test("is_whole", move || is_whole(&whole))];
    for on_rabbitmq in [false, true] {
        for client in CLIENTS {
            for script in &suite.scripts {
                let (suite, script) = (Arc::clone(suite), script.clone());
                let broker = if on_rabbitmq { "rabbitmq" } else { "in_process" };
                let name = format!("{broker}::{client}::{}", script.name);
                trials.push(Trial::ignorable_test(name, move || {
                    if let Some(why) = script.lacking(client) {
                        return Ok(Completion::ignored_with(format!("{client} {why}")));
                    }
                    if on_rabbitmq {
                        rabbitmq(&suite, client, &script)
                    } else {
                        in_process(&suite, client, &script)
                    }
                }));
            }
        }
    }
    trials
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let folders = [Ok("golden".to_owned()), Ok("differences".to_owned()), Ok(String::new())];
    let record = env::var("CONFORMANCE_RECORD");
    assert!(
        record.is_err() || folders.contains(&record),
        "CONFORMANCE_RECORD is golden or differences"
    );
    let suite = Arc::new(Suite {
        scripts: Script::all(&here().join("scenarios")),
        rabbitmq: OnceLock::new(),
        record: record.ok().filter(|folder| !folder.is_empty()),
        recorded: Mutex::default(),
    });
    let trials = trials(&suite);
    let wanted =
        |trial: &Trial| trial.name().starts_with("rabbitmq") && !arguments.is_filtered_out(trial);
    // It takes seconds to start: meanwhile the others run.
    let starting = (!arguments.list && trials.iter().any(wanted)).then(|| {
        let suite = Arc::clone(&suite);
        std::thread::spawn(move || drop(suite.rabbitmq()))
    });
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Some(starting) = starting {
        let _ = starting.join();
    }
    suite.write();
    // Ends the broker that this run started.
    drop(suite);
    conclusion.exit_code()
}
