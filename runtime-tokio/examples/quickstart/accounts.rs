//! What the program itself saw, and what that says.

use std::{
    process::ExitCode,
    sync::atomic::{AtomicBool, AtomicU64},
};

use super::wanted::Wanted;

/// What was seen on the way, by the program itself: not the client's counters.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) accepted: AtomicU64,
    pub(super) confirmed: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) unique: AtomicU64,
    pub(super) resent: AtomicU64,
    pub(super) cuts_ordered: AtomicU64,
    pub(super) all_confirmed: AtomicBool,
}

/// The last line, and the verdict.
pub(super) struct Accounts {
    pub(super) accepted: u64,
    pub(super) confirmed: u64,
    pub(super) resent: u64,
    pub(super) received_unique: u64,
    pub(super) duplicates: u64,
    pub(super) cuts: u64,
    pub(super) reconnects: u64,
    pub(super) conserved: bool,
}

impl Accounts {
    pub(super) fn close(&self, wanted: &Wanted) -> ExitCode {
        let Self {
            accepted,
            confirmed,
            resent,
            received_unique,
            duplicates,
            cuts,
            reconnects,
            conserved,
        } = self;
        let lost = accepted.saturating_sub(*received_unique);
        let mut good = lost == 0 && *accepted == wanted.messages && accepted == confirmed;
        if !conserved {
            eprintln!("quickstart: the client's own accounts do not add up");
            good = false;
        }
        if wanted.faults && (*resent == 0 || *cuts < 5) {
            eprintln!("quickstart: the network was not bad enough to prove anything");
            good = false;
        }
        println!(
            "accounts accepted={accepted} confirmed={confirmed} resent={resent} \
             received_unique={received_unique} duplicates={duplicates} lost={lost} cuts={cuts} \
             reconnects={reconnects}"
        );
        if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
