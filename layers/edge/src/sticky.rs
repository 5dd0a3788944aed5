//! The cookie that leads a browser to the same target again.
//!
//! It holds a random number and names nothing: which target that means follows from the number, on every node alike.

use http::{HeaderMap, HeaderValue, header};

const NAME: &str = "pangolin_route";

/// The number that the client brought. The cookie is ours, so it is taken out of the request.
pub(crate) fn take(headers: &mut HeaderMap) -> Option<u64> {
    let all: Vec<HeaderValue> = headers.get_all(header::COOKIE).iter().cloned().collect();
    let mut found = None;
    let mut kept: Vec<HeaderValue> = Vec::with_capacity(all.len());
    for value in &all {
        let Ok(text) = value.to_str() else {
            kept.push(value.clone());
            continue;
        };
        let (ours, others): (Vec<&str>, Vec<&str>) = text
            .split(';')
            .map(str::trim)
            .filter(|pair| !pair.is_empty())
            .partition(|pair| pair.split_once('=').is_some_and(|(name, _)| name.trim_end() == NAME));
        found = found.or_else(|| ours.iter().find_map(|pair| number(pair.split_once('=')?.1)));
        if ours.is_empty() {
            kept.push(value.clone());
        } else if !others.is_empty() {
            kept.extend(HeaderValue::from_str(&others.join("; ")));
        }
    }
    if kept != all {
        headers.remove(header::COOKIE);
        for value in kept {
            headers.append(header::COOKIE, value);
        }
    }
    found
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    let plain = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// The cookie for a client that brought none; it lasts as long as the browser.
pub(crate) fn give(number: u64) -> Option<HeaderValue> {
    let text = format!("{NAME}={number:016x}; Path=/; Secure; HttpOnly; SameSite=Lax");
    HeaderValue::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken(cookies: &[&str]) -> (Option<u64>, Vec<String>) {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(header::COOKIE, cookie.parse().expect("a value"));
        }
        let found = take(&mut headers);
        let left = headers.get_all(header::COOKIE).iter().map(|v| v.to_str().expect("text").to_owned());
        (found, left.collect())
    }

    #[test]
    fn ours_is_read_and_taken_out_and_others_stay() {
        let ours = "pangolin_route=00000000000000ff";
        for (cookies, found, left) in [
            (&["a=1; b=2"][..], None, &["a=1; b=2"][..]),
            (&[ours], Some(255), &[]),
            (&["a=1; pangolin_route=00000000000000ff; b=2"], Some(255), &["a=1; b=2"]),
            (&["a=1", ours], Some(255), &["a=1"]),
            (&["pangolin_route=xyz; a=1"], None, &["a=1"]),
            (&["pangolin_route=ff"], None, &[]),
            (&["pangolin_router=00000000000000ff"], None, &["pangolin_router=00000000000000ff"]),
            (&[], None, &[]),
        ] {
            let left: Vec<String> = left.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(taken(cookies), (found, left), "{cookies:?}");
        }
    }

    #[test]
    fn what_is_given_is_understood() {
        let given = give(7).expect("a cookie");
        let pair = given.to_str().expect("text").split(';').next().expect("a pair").to_owned();
        assert_eq!(taken(&[&pair]).0, Some(7));
    }

    proptest! {
        #[test]
        fn no_cookie_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                headers.append(header::COOKIE, value);
            }
            take(&mut headers);
        }
    }
}
