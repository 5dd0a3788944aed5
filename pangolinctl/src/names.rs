//! Names where ids are: `home`, `lab/home`, `app.example.com`, `ada@example.com`.
//!
//! A number is taken as an id. Names are looked up in lists; where an organisation matters it is the one in front
//! of the slash, the one of `--org`, or the only one there is.

use pangolin_core::{CertificateId, DomainId, HostName, NodeId, ResourceId, RoleId, SiteId, Slug, UserId};
use pangolin_wire::{Certificate, Domain, Node, Org, Resource, Role, Site, User};
use serde::de::DeserializeOwned;

use crate::{failure::Failure, session::Session};

/// Most pages of a list that are read in search of a name: a hundred thousand entries.
const PAGES_MAX: usize = 100;

/// All entries of a list.
async fn entries<T: DeserializeOwned>(session: &Session, path: &str, field: &str) -> Result<Vec<T>, Failure> {
    let mut found = Vec::new();
    for _ in 0..PAGES_MAX {
        let answer = session.get(&format!("{path}?offset={}", found.len())).await?;
        let page = answer.data[field].clone();
        let page: Vec<T> = serde_json::from_value(page).map_err(|error| {
            Failure::new(format!("the answer to {path} is not a list of {field}: {error}"))
        })?;
        let empty = page.is_empty();
        found.extend(page);
        let total = answer.data["pagination"]["total"].as_u64().unwrap_or(0);
        if empty || found.len() as u64 >= total {
            break;
        }
    }
    Ok(found)
}

/// The organisation that was named, or the only one there is.
pub(crate) async fn the_org(session: &Session) -> Result<Slug, Failure> {
    if let Some(org) = &session.org {
        return Ok(org.clone());
    }
    let mut orgs: Vec<Org> = entries(session, "/orgs", "orgs").await?;
    match (orgs.len(), orgs.pop()) {
        (1, Some(only)) => Ok(only.org_id),
        (0, _) => {
            Err(Failure::new("there is no organisation yet").hint("Make one: pangolinctl org create NAME"))
        }
        (n, _) => Err(Failure::usage(format!("there are {n} organisations: which one?"))
            .hint("Name it with --org or PANGOLIN_ORG.")),
    }
}

/// The organisations that a name may belong to, and the name without the organisation in front.
async fn scope<'a>(session: &Session, text: &'a str) -> Result<(Vec<Slug>, &'a str), Failure> {
    if let Some((org, name)) = text.split_once('/') {
        let org = org.parse().map_err(|error| Failure::usage(format!("{text:?}: {error}")))?;
        return Ok((vec![org], name));
    }
    if let Some(org) = &session.org {
        return Ok((vec![org.clone()], text));
    }
    let orgs: Vec<Org> = entries(session, "/orgs", "orgs").await?;
    Ok((orgs.into_iter().map(|org| org.org_id).collect(), text))
}

/// The one entry that fits.
fn one<T>(what: &str, text: &str, mut found: Vec<T>) -> Result<T, Failure> {
    match (found.len(), found.pop()) {
        (1, Some(only)) => Ok(only),
        (0, _) => Err(Failure::new(format!("there is no {what} {text:?}"))
            .hint(format!("See them with: pangolinctl {what} list"))),
        (n, _) => Err(Failure::usage(format!("{n} {what}s are called {text:?}"))
            .hint("Name the organisation with --org, or give the number from the list.")),
    }
}

/// The entry of an organisation's list that fits.
async fn within_orgs<T: DeserializeOwned>(
    session: &Session,
    what: &str,
    text: &str,
    fits: impl Fn(&T, &str) -> bool,
) -> Result<T, Failure> {
    let (orgs, name) = scope(session, text).await?;
    let field = format!("{what}s");
    let mut found = Vec::new();
    for org in orgs {
        let all: Vec<T> = entries(session, &format!("/org/{org}/{field}"), &field).await?;
        found.extend(all.into_iter().filter(|entry| fits(entry, name)));
    }
    one(what, text, found)
}

/// Id of the site with this id, short name or ORG/SHORT-NAME.
pub(crate) async fn site(session: &Session, text: &str) -> Result<SiteId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let site: Site = within_orgs(session, "site", text, |s: &Site, n| s.nice_id.as_str() == n).await?;
    Ok(site.site_id)
}

/// Id of the domain with this id or name.
pub(crate) async fn domain(session: &Session, text: &str) -> Result<DomainId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let fits = |d: &Domain, n: &str| d.base_domain.as_str().eq_ignore_ascii_case(n.trim_end_matches('.'));
    let domain: Domain = within_orgs(session, "domain", text, fits).await?;
    Ok(domain.domain_id)
}

/// Id of the resource with this id, host, short name or ORG/SHORT-NAME.
pub(crate) async fn resource(session: &Session, text: &str) -> Result<ResourceId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let fits = |r: &Resource, n: &str| {
        r.nice_id.as_str() == n || r.full_domain.as_str().eq_ignore_ascii_case(n.trim_end_matches('.'))
    };
    let resource: Resource = within_orgs(session, "resource", text, fits).await?;
    Ok(resource.resource_id)
}

/// Id of the role with this id or name.
pub(crate) async fn role(session: &Session, text: &str) -> Result<RoleId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let role: Role = within_orgs(session, "role", text, |r: &Role, n| r.name == n).await?;
    Ok(role.role_id)
}

/// Id of the user with this id or e-mail address.
pub(crate) async fn user(session: &Session, text: &str) -> Result<UserId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let users: Vec<User> = entries(session, "/users", "users").await?;
    let found = users.into_iter().filter(|user| user.email.eq_ignore_ascii_case(text)).collect();
    one("user", text, found).map(|user| user.user_id)
}

/// Id of the node with this id or name.
pub(crate) async fn node(session: &Session, text: &str) -> Result<NodeId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let nodes: Vec<Node> = entries(session, "/nodes", "nodes").await?;
    one("node", text, nodes.into_iter().filter(|node| node.name.as_str() == text).collect())
        .map(|node| node.node_id)
}

/// Id of the certificate with this id, or good for this name: of several the one that names it, not by a wildcard.
pub(crate) async fn certificate(session: &Session, text: &str) -> Result<CertificateId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let host: HostName = text.parse().map_err(|error| Failure::usage(format!("{error}")))?;
    let all: Vec<Certificate> = entries(session, "/certificates", "certificates").await?;
    let fitting = |fits: &dyn Fn(&HostName) -> bool| -> Vec<CertificateId> {
        let found = all.iter().filter(|certificate| certificate.names.iter().any(fits));
        found.filter_map(|certificate| certificate.certificate_id).collect()
    };
    let named = fitting(&|name| *name == host);
    let found = if named.is_empty() { fitting(&|name| name.covers(&host)) } else { named };
    match found[..] {
        [only] => Ok(only),
        [] => Err(Failure::new(format!("there is no certificate for {text} yet"))
            .hint(format!("See what is being done: pangolinctl cert list, pangolinctl cert why {text}"))),
        _ => Err(Failure::usage(format!("{} certificates are good for {text}", found.len()))
            .hint("Give the number from pangolinctl cert list.")),
    }
}

/// The path of an organisation.
pub(crate) async fn org_path(session: &Session, tail: &str) -> Result<String, Failure> {
    Ok(format!("/org/{}/{tail}", the_org(session).await?))
}
