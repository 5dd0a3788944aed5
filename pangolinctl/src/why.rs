//! `pangolinctl why`.

use clap::Args;
use pangolin_wire::Explanation;

use crate::{failure::Failure, session::Session};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pangolinctl why wiki.example.com      its addresses, targets and certificate
  pangolinctl why acme/home             where the tunnel of a site ends
  pangolinctl why n2                    why a node is up or down, in service or not
  pangolinctl why cert example.com      the certificate for a name
  pangolinctl why node 3                host, site, cert or node in front says which is meant

The answer follows from the replicated state alone: it is the same on every node. What one node sees of
tunnels and targets is in `pangolinctl status` and `pangolinctl journal`.")]
pub(crate) struct Why {
    /// Host name, site, node or certificate; with host, site, cert or node in front where it may be several
    #[arg(required = true, num_args = 1..=2, value_name = "SUBJECT")]
    subject: Vec<String>,
}

pub(crate) async fn run(session: &Session, args: &Why) -> Result<(), Failure> {
    let answer = session.get(&path(&args.subject, session.org.as_ref().map(|org| org.as_str()))?).await?;
    session.show(&answer, |explanation: Explanation| explanation.text.trim_end().to_owned())
}

/// The certificate for a name.
pub(crate) async fn certificate(session: &Session, name: &str) -> Result<(), Failure> {
    run(session, &Why { subject: vec!["cert".to_owned(), name.to_owned()] }).await
}

/// What is asked of the API.
fn path(subject: &[String], org: Option<&str>) -> Result<String, Failure> {
    let (kind, name) = match subject {
        [name] => (None, name),
        [kind, name] => (Some(kind.as_str()), name),
        _ => return Err(Failure::usage("one thing at a time")),
    };
    let kind = match kind {
        None => "",
        Some("host") => "&kind=host",
        Some("site") => "&kind=site",
        Some("cert" | "certificate") => "&kind=certificate",
        Some("node") => "&kind=node",
        Some(other) => {
            return Err(Failure::usage(format!("{other:?} is none of host, site, cert, node")));
        }
    };
    // All that a name can have, and nothing that means something in a URL.
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./*".contains(&b)) {
        return Err(Failure::usage(format!("{name:?} is no name: names have letters, digits, - _ . / *")));
    }
    let org = match org {
        Some(org) if kind == "&kind=site" && !name.contains('/') && name.parse::<u64>().is_err() => {
            format!("{org}/")
        }
        _ => String::new(),
    };
    Ok(format!("/why?name={org}{name}{kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_is_a_name_and_two_say_of_what() {
        let ask = |words: &[&str], org| {
            let words: Vec<String> = words.iter().map(ToString::to_string).collect();
            path(&words, org).map_err(|failure| failure.message().to_owned())
        };
        assert_eq!(ask(&["n2"], None).as_deref(), Ok("/why?name=n2"));
        assert_eq!(ask(&["cert", "*.a.b"], None).as_deref(), Ok("/why?name=*.a.b&kind=certificate"));
        assert_eq!(ask(&["site", "home"], Some("acme")).as_deref(), Ok("/why?name=acme/home&kind=site"));
        assert_eq!(ask(&["site", "4"], Some("acme")).as_deref(), Ok("/why?name=4&kind=site"));
        assert!(ask(&["org", "acme"], None).is_err_and(|why| why.contains("none of host")));
        assert!(ask(&["a&b"], None).is_err_and(|why| why.contains("no name")));
    }
}
