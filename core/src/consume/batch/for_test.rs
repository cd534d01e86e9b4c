//! Batches made by hand, for tests.

use super::{Batch, Entry, weight};

impl Batch {
    /// Deliveries with these bodies, published to the default exchange with an empty routing key and
    /// no properties.
    pub(crate) fn for_test(generation: u64, first_tag: u64, bodies: &[&[u8]]) -> Self {
        let mut batch = Self { generation, ..Self::default() };
        let at = |data: &[u8]| u32::try_from(data.len()).unwrap_or(u32::MAX);
        for (tag, body) in (first_tag..).zip(bodies) {
            batch.weight += weight(2, body.len());
            let names = at(&batch.data);
            batch.data.extend([0, 0]);
            let properties = at(&batch.data);
            batch.data.extend([0, 0]);
            let start = at(&batch.data);
            batch.data.extend(*body);
            let end = at(&batch.data);
            batch.entries.push(Entry {
                tag,
                names,
                properties,
                body: start,
                end,
                redelivered: false,
            });
        }
        batch
    }
}
