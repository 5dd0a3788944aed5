//! A node takes no more of its host as time goes by.

use std::collections::BTreeMap;

use pangolin_core::NodeId;

use crate::{
    history::{History, Usage, What},
    verdict::Finding,
};

/// Most resident memory of a node, in bytes: many times what one at rest has.
const MEMORY_MAX: u64 = 512 * 1024 * 1024;
/// Most files and sockets that a node has open.
const DESCRIPTORS_MAX: usize = 2000;
/// A process of which so many looks are known is also compared with itself.
const LOOKS: usize = 40;
/// How much more memory it may have in the second half of them, at their least, than at most in the first half.
const GROWTH_MAX: u64 = 64 * 1024 * 1024;

/// Looks at the use of memory and descriptors.
#[must_use]
pub fn check(history: &History) -> Finding {
    let mut processes: BTreeMap<(NodeId, u32), Vec<u64>> = BTreeMap::new();
    let mut checked = 0;
    for event in &history.events {
        let What::Usage(Usage { node, process, memory, descriptors }) = &event.what else { continue };
        checked += 1;
        if *memory > MEMORY_MAX {
            return Finding::broken(checked, format!("node {node} took {} MiB of memory", memory >> 20));
        }
        if *descriptors > DESCRIPTORS_MAX {
            return Finding::broken(checked, format!("node {node} had {descriptors} files and sockets open"));
        }
        processes.entry((*node, *process)).or_default().push(*memory);
    }
    for ((node, _), memory) in processes.iter().filter(|(_, memory)| memory.len() >= LOOKS) {
        let (first, second) = memory.split_at(memory.len() / 2);
        let most = first.iter().copied().max().unwrap_or_default();
        let least = second.iter().copied().min().unwrap_or_default();
        if least > most + GROWTH_MAX {
            let (least, most) = (least >> 20, most >> 20);
            return Finding::broken(
                checked,
                format!(
                    "node {node} never had less than {least} MiB in the second half, after {most} MiB at most"
                ),
            );
        }
    }
    Finding::holds(checked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{history::samples::history, verdict::Verdict};

    #[test]
    fn bounds_and_growth_are_seen() {
        let usage = |memory: u64, descriptors: usize| {
            (1, What::Usage(Usage { node: NodeId(1), process: 7, memory, descriptors }))
        };
        let mib = 1024 * 1024;
        assert_eq!(check(&history([usage(60 * mib, 90)])).verdict, Verdict::True);
        assert_eq!(check(&history([usage(600 * mib, 90)])).verdict, Verdict::False);
        assert_eq!(check(&history([usage(60 * mib, 9000)])).verdict, Verdict::False);
        let growing = (0..100).map(|step| usage((50 + step * 4) * mib, 90));
        assert_eq!(check(&history(growing)).verdict, Verdict::True, "it may still level off");
        let grown = (0..100).map(|step| usage(if step < 50 { 50 } else { 150 } * mib, 90));
        assert_eq!(check(&history(grown)).verdict, Verdict::False);
    }
}
