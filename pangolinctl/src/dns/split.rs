//! Cuts a zone file into parts that fit into one request each.

/// Bytes of a part: in the log it is smaller, and the request's limit is 256 KiB.
const PART: usize = 96 * 1024;

/// Parts that mean together what the whole means: each begins with the directives that hold there, and with a record
/// that names its owner.
pub(super) fn split(text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut part = String::new();
    let (mut origin, mut ttl) = (String::new(), String::new());
    let mut entry = String::new();
    let mut open = Open::default();
    for line in text.lines() {
        entry.push_str(line);
        entry.push('\n');
        open.read(line);
        if open.is_open() {
            continue;
        }
        let names_owner = entry.chars().next().is_some_and(|first| !first.is_whitespace() && first != ';');
        if part.len() + entry.len() > PART && names_owner && !part.is_empty() {
            parts.push(std::mem::replace(&mut part, format!("{origin}{ttl}")));
        }
        let upper = entry.trim_start().to_ascii_uppercase();
        if upper.starts_with("$ORIGIN") {
            origin.clone_from(&entry);
        } else if upper.starts_with("$TTL") {
            ttl.clone_from(&entry);
        }
        part.push_str(&entry);
        entry.clear();
    }
    part.push_str(&entry);
    parts.push(part);
    parts
}

/// Whether an entry goes on in the next line: within parentheses.
#[derive(Default)]
struct Open {
    parentheses: usize,
}

impl Open {
    fn read(&mut self, line: &str) {
        let mut quoted = false;
        let mut characters = line.chars();
        while let Some(character) = characters.next() {
            match character {
                '\\' => {
                    characters.next();
                }
                '"' => quoted = !quoted,
                _ if quoted => {}
                ';' => return,
                '(' => self.parentheses += 1,
                ')' => self.parentheses = self.parentheses.saturating_sub(1),
                _ => {}
            }
        }
    }

    fn is_open(&self) -> bool {
        self.parentheses > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_is_one_part() {
        let text = "$ORIGIN z.test.\na IN A 192.0.2.1\n";
        assert_eq!(split(text), [text]);
    }

    #[test]
    fn parts_keep_directives_owners_and_parentheses_together() {
        let mut text = String::from("$ORIGIN z.test.\n$TTL 60\n");
        for n in 0..9000 {
            text.push_str(&format!("n{n} IN TXT ( \"(;\"\n  \"b\" ) ; (\n   IN A 192.0.2.1\n"));
        }
        let parts = split(&text);
        assert!(parts.len() > 2, "{}", parts.len());
        for part in &parts {
            assert!(part.len() < 2 * PART);
            assert!(part.starts_with("$ORIGIN z.test.\n$TTL 60\nn"), "{:?}", &part[..60]);
            assert!(part.ends_with("IN A 192.0.2.1\n"));
        }
        let records: usize = parts.iter().map(|part| part.matches("IN TXT").count()).sum();
        assert_eq!(records, 9000);
    }
}
