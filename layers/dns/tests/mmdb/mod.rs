//! Databases in MaxMind's format, as small as tests need them.

use std::net::Ipv4Addr;

/// An address, the length of its prefix, and two values, each with the names of two maps around it.
pub(crate) type Area = ([u8; 4], u32, [(&'static str, &'static str, &'static str); 2]);

/// A database of IPv4 networks in MaxMind's format, version 2.0.
pub(crate) fn database(networks: &[Area]) -> Vec<u8> {
    const DATA: u32 = 1 << 31;
    // A tree of pairs: a node's number, or where the data begins (marked by the highest bit).
    let mut tree: Vec<[Option<u32>; 2]> = vec![[None; 2]];
    let mut data = Vec::new();
    for (address, prefix, place) in networks {
        let bits = Ipv4Addr::from(*address).to_bits();
        let mut node = 0;
        for depth in 0..*prefix {
            let side = (bits >> (31 - depth) & 1) as usize;
            if depth + 1 == *prefix {
                tree[node][side] = Some(DATA | u32::try_from(data.len()).expect("small"));
            } else if let Some(next) = tree[node][side] {
                node = next as usize;
            } else {
                let next = u32::try_from(tree.len()).expect("small");
                tree[node][side] = Some(next);
                tree.push([None; 2]);
                node = next as usize;
            }
        }
        data.push(0xe2);
        for (outer, inner, value) in place {
            text(&mut data, outer);
            data.push(0xe1);
            text(&mut data, inner);
            text(&mut data, value);
        }
    }
    let count = u32::try_from(tree.len()).expect("small");
    let mut file = Vec::new();
    for record in tree.iter().flatten() {
        let value = match record {
            None => count,
            Some(at) if at & DATA != 0 => (at & !DATA) + count + 16,
            Some(next) => *next,
        };
        file.extend(&value.to_be_bytes()[1..]);
    }
    file.extend([0; 16]);
    file.extend(data);
    file.extend(b"\xab\xcd\xefMaxMind.com");
    file.push(0xe9);
    let mut number = |name: &str, kind: [u8; 2], bytes: &[u8]| {
        text(&mut file, name);
        // Types above 7 have a byte of their own.
        file.push(kind[0] << 5 | u8::try_from(bytes.len()).expect("short"));
        if kind[1] > 0 {
            file.push(kind[1]);
        }
        file.extend(bytes);
    };
    number("node_count", [6, 0], &count.to_be_bytes());
    number("record_size", [5, 0], &[24]);
    number("ip_version", [5, 0], &[4]);
    number("binary_format_major_version", [5, 0], &[2]);
    number("binary_format_minor_version", [5, 0], &[0]);
    number("build_epoch", [0, 2], &[1]);
    text(&mut file, "database_type");
    text(&mut file, "Test-Country");
    text(&mut file, "languages");
    file.extend([0x00, 0x04]);
    text(&mut file, "description");
    file.push(0xe0);
    file
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(0x40 | u8::try_from(text.len()).expect("short"));
    out.extend(text.as_bytes());
}
