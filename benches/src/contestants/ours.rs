//! Our client, on its three runtimes: `ours-tokio-ct`, `ours-tokio-mt`, `ours-smol`.

use super::Entry;

/// Empty until the runtime crates have their surface.
pub(crate) const ALL: &[Entry] = &[];
