//! Names as they are looked up: wire form, folded to lower case.

/// Longest name in wire form, root label included (RFC 1035 §2.3.4).
pub(crate) const NAME_MAX: usize = 255;
/// Most labels of a name without the root: 127 of one byte each.
const LABELS_MAX: usize = 127;
/// Longest label.
const LABEL_MAX: usize = 63;

/// A name in lower case with the places where its labels begin.
#[derive(Clone, Copy)]
pub(crate) struct WireName {
    bytes: [u8; NAME_MAX],
    len: usize,
    starts: [u8; LABELS_MAX],
    labels: usize,
}

impl WireName {
    /// Reads an uncompressed name from the start of `bytes`; none if there is no such name. A question is the first
    /// name in a message, so that it has nothing it could point to: a pointer in it is refused.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut name = Self { bytes: [0; NAME_MAX], len: 0, starts: [0; LABELS_MAX], labels: 0 };
        let mut at = 0;
        loop {
            let label = usize::from(*bytes.get(at)?);
            if label > LABEL_MAX || at + label + 1 > NAME_MAX {
                return None;
            }
            if label == 0 {
                name.len = at + 1;
                name.bytes[..name.len].copy_from_slice(&bytes[..name.len]);
                // Length bytes are below b'A', so folding everything leaves them alone.
                name.bytes[..name.len].make_ascii_lowercase();
                return Some(name);
            }
            *name.starts.get_mut(name.labels)? = u8::try_from(at).ok()?;
            name.labels += 1;
            at += 1 + label;
        }
    }

    /// Bytes of the wire form.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Labels without the root.
    pub(crate) fn labels(&self) -> usize {
        self.labels
    }

    /// The name without its first `skip` labels; the root for all of them.
    pub(crate) fn suffix(&self, skip: usize) -> &[u8] {
        let start = self.starts[..self.labels].get(skip).map_or(self.len - 1, |start| usize::from(*start));
        &self.bytes[start..self.len]
    }

    /// The last `length` bytes, which must begin at a label.
    pub(crate) fn last(&self, length: usize) -> &[u8] {
        &self.bytes[self.len.saturating_sub(length)..self.len]
    }

    /// The first label; empty for the root.
    pub(crate) fn first_label(&self) -> &[u8] {
        &self.bytes[1..=usize::from(self.bytes[0])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folded_and_cut_at_labels() {
        let name = WireName::read(b"\x03wWw\x02Ab\x00rest").expect("a name");
        assert_eq!(name.suffix(0), b"\x03www\x02ab\x00");
        assert_eq!((name.labels(), name.len(), name.first_label()), (2, 8, b"www".as_slice()));
        assert_eq!(
            [name.suffix(0), name.suffix(1), name.suffix(2), name.suffix(9)],
            [b"\x03www\x02ab\x00".as_slice(), b"\x02ab\x00", b"\x00", b"\x00"]
        );
    }

    #[test]
    fn pointers_long_labels_long_names_and_cut_names_are_refused() {
        let mut longest = Vec::new();
        for _ in 0..127 {
            longest.extend_from_slice(b"\x01a");
        }
        assert!(WireName::read(&longest).is_none(), "cut");
        longest.push(0);
        assert_eq!(WireName::read(&longest).expect("255 bytes").labels(), 127);
        let mut too_long = b"\x01b".to_vec();
        too_long.extend_from_slice(&longest);
        assert!(WireName::read(&too_long).is_none(), "257 bytes");
        assert!(WireName::read(b"\xc0\x0c").is_none(), "pointer");
        assert!(WireName::read(b"\x01a\xc0\x0c").is_none(), "pointer behind a label");
        assert!(WireName::read(b"\x40").is_none(), "label type 01");
        assert!(WireName::read(b"").is_none());
        assert_eq!(WireName::read(b"\x00").expect("the root").labels(), 0);
    }
}
