//! What operators want: organisations, users, roles, keys, sites, domains, resources, targets.
//!
//! Update requests name only what shall change. A null is the same as nothing, except where it says otherwise.

use std::net::Ipv4Addr;

use pangolin_core::{
    DomainId, HostName, NodeId, ResourceId, RoleId, SiteId, Slug, TargetId, UserId,
    dns::AnswerPolicy,
    record::{KeyScope, Method},
    traffic::Balancing,
};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    Moment, Pagination, TargetState,
    shape::{answer, request},
};

answer! {
    /// An organisation.
    Org {
        /// Short name, which is its id.
        org_id: Slug,
        /// Display name.
        name: String,
        /// When it was made.
        created_at: Moment,
    }

    /// Answer of `GET /orgs`.
    OrgList {
        /// The organisations, by id.
        orgs: Vec<Org>,
        /// Which part of them.
        pagination: Pagination,
    }

    /// A user.
    User {
        /// Id.
        user_id: UserId,
        /// E-mail address.
        email: String,
        /// Display name.
        name: String,
        /// May do everything.
        administrator: bool,
        /// Organisations that the person belongs to.
        memberships: Vec<Membership>,
        /// When the user was made.
        created_at: Moment,
    }

    /// A user's roles in one organisation.
    Membership {
        /// The organisation.
        org_id: Slug,
        /// The roles held there.
        role_ids: Vec<RoleId>,
    }

    /// Answer of `GET /users` and `GET /org/{orgId}/users`.
    UserList {
        /// The users, by id.
        users: Vec<User>,
        /// Which part of them.
        pagination: Pagination,
    }

    /// A role.
    Role {
        /// Id.
        role_id: RoleId,
        /// Where it counts.
        org_id: Slug,
        /// Name.
        name: String,
        /// The organisation's administrators: cannot be removed.
        is_admin: bool,
    }

    /// Answer of `GET /org/{orgId}/roles`.
    RoleList {
        /// The roles, by id.
        roles: Vec<Role>,
        /// Which part of them.
        pagination: Pagination,
    }

    /// An API key without its secret.
    ApiKey {
        /// Public half.
        api_key_id: String,
        /// What it is for.
        name: String,
        /// How far it reaches: `"cluster"` or `{"org": ORG}`.
        scope: KeyScope,
        /// When it was made.
        created_at: Moment,
    }

    /// Answer of `PUT /api-key`.
    CreatedApiKey {
        /// The key.
        #[serde(flatten)]
        api_key: ApiKey,
        /// What goes behind `Authorization: Bearer`. Shown this once; none when the request had been answered
        /// before.
        key: Option<String>,
    }

    /// Answer of `GET /api-keys`.
    ApiKeyList {
        /// The keys, by id.
        api_keys: Vec<ApiKey>,
        /// Which part of them.
        pagination: Pagination,
    }

    /// A site.
    Site {
        /// Id.
        site_id: SiteId,
        /// Short name, unique in the organisation.
        nice_id: Slug,
        /// Owner.
        org_id: Slug,
        /// Display name.
        name: String,
        /// Public half of the connector's credentials.
        newt_id: String,
        /// The site's address inside the tunnels.
        address: Ipv4Addr,
        /// Off = no tunnel.
        enabled: bool,
        /// The connector that last registered.
        connector: Option<Connector>,
        /// The node that carries it first; none before it is placed.
        home: Option<NodeId>,
        /// Fence of this placement: grows with every change of it. None before it is placed.
        epoch: Option<u64>,
        /// Where it goes next, best first.
        standbys: Vec<NodeId>,
        /// When it was made.
        created_at: Moment,
        /// The nodes that reach its targets by themselves, an empty list = every one with data; none = its connector
        /// does.
        local: Option<Vec<NodeId>>,
        /// The region that it lies in, as nodes name theirs; none = not said.
        region: Option<Slug>,
    }

    /// The connector that last registered for a site.
    Connector {
        /// Its version, as it says.
        version: String,
        /// It keeps tunnels to several nodes at once.
        multi_homed: bool,
        /// When its key was first seen.
        since: Moment,
    }

    /// Answer of `PUT /org/{orgId}/site` and `POST /site/{siteId}/secret`.
    CreatedSite {
        /// The site.
        #[serde(flatten)]
        site: Site,
        /// The secret half of the connector's credentials. Shown this once; none when the request had been
        /// answered before.
        secret: Option<String>,
        /// What the connector connects to, such as `https://pangolin.example.com`.
        endpoint: String,
    }

    /// Answer of `GET /org/{orgId}/sites`.
    SiteList {
        /// The sites, by id.
        sites: Vec<Site>,
        /// Which part of them.
        pagination: Pagination,
    }

    /// A domain.
    Domain {
        /// Id.
        domain_id: DomainId,
        /// Owner.
        org_id: Slug,
        /// The domain.
        base_domain: HostName,
        /// When it was made.
        created_at: Moment,
    }

    /// Answer of `GET /org/{orgId}/domains`.
    DomainList {
        /// The domains, by id.
        domains: Vec<Domain>,
        /// Which part of them.
        pagination: Pagination,
    }

    /// A resource.
    Resource {
        /// Id.
        resource_id: ResourceId,
        /// Short name, unique in the organisation.
        nice_id: Slug,
        /// Owner.
        org_id: Slug,
        /// Display name.
        name: String,
        /// The domain it belongs to.
        domain_id: DomainId,
        /// The part in front of the domain; none = the domain itself.
        subdomain: Option<String>,
        /// Its full name.
        full_domain: HostName,
        /// Off = not in DNS and not routed.
        enabled: bool,
        /// Its targets.
        target_ids: Vec<TargetId>,
        /// When it was made.
        created_at: Moment,
        /// Which nodes its name leads to.
        #[serde(default)]
        answers: AnswerPolicy,
        /// Which of the targets that are equally well is chosen.
        balancing: Balancing,
        /// Its open ports: `25565/tcp`, `53/udp`, `tls`.
        ports: Vec<String>,
    }

    /// Answer of `GET /org/{orgId}/resources`.
    ResourceList {
        /// The resources, by id.
        resources: Vec<Resource>,
        /// Which part of them.
        pagination: Pagination,
    }

    /// A target.
    Target {
        /// Id.
        target_id: TargetId,
        /// What it serves.
        resource_id: ResourceId,
        /// The site whose connector reaches it.
        site_id: SiteId,
        /// How it is spoken to.
        method: Method,
        /// Host name or address as seen from the site.
        ip: String,
        /// Port there.
        port: u16,
        /// Port on the site's tunnel address where the connector listens for it.
        internal_port: u16,
        /// Off = gets no traffic.
        enabled: bool,
        /// How it is checked; none = not at all.
        health_check: Option<HealthCheck>,
        /// How much of the traffic it gets, in proportion to the weights of the others.
        weight: u16,
        /// 0 serves, 1 is the backup, 2 the backup's backup.
        priority: u8,
        /// How it stands; none from a node that carries no traffic.
        state: Option<TargetState>,
    }

    /// Answer of `GET /resource/{resourceId}/targets`.
    TargetList {
        /// The targets, by id.
        targets: Vec<Target>,
        /// Which part of them.
        pagination: Pagination,
    }
}

request! {
    /// Request of `PUT /org`.
    CreateOrg {
        /// Short name, which is its id.
        org_id: Slug,
        /// Display name; the short name if not said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    }

    /// Request of `POST /org/{orgId}`.
    UpdateOrg {
        /// Display name.
        name: String,
    }

    /// Request of `PUT /user`.
    CreateUser {
        /// E-mail address.
        email: String,
        /// Display name.
        name: String,
        /// May do everything.
        #[serde(default)]
        administrator: bool,
    }

    /// Request of `POST /user/{userId}`.
    UpdateUser {
        /// Display name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// May do everything.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        administrator: Option<bool>,
    }

    /// Request of `POST /org/{orgId}/user/{userId}`: makes the user a member with exactly these roles.
    SetMembership {
        /// The roles.
        role_ids: Vec<RoleId>,
    }

    /// Request of `PUT /org/{orgId}/role`.
    CreateRole {
        /// Name.
        name: String,
    }

    /// Request of `PUT /api-key`.
    CreateApiKey {
        /// What it is for.
        name: String,
        /// How far it reaches: `"cluster"` or `{"org": ORG}`.
        scope: KeyScope,
        /// Public half, if the client makes its own credentials: so a repeat after an unknown outcome still
        /// knows them. Goes with `secret`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        api_key_id: Option<String>,
        /// Secret half, if the client makes its own credentials.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<String>,
    }

    /// Request of `PUT /org/{orgId}/site`.
    CreateSite {
        /// Display name.
        name: String,
        /// Kind of site; `newt` if not said.
        #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
        kind: Option<SiteKind>,
        /// Short name; made from the name if not said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nice_id: Option<Slug>,
        /// Public half of the connector's credentials, if the client makes its own: so a repeat after an unknown
        /// outcome still knows them. Goes with `secret`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        newt_id: Option<String>,
        /// Secret half, if the client makes its own credentials.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<String>,
    }

    /// Request of `POST /site/{siteId}`.
    UpdateSite {
        /// Display name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Off = no tunnel.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        enabled: Option<bool>,
    }

    /// Request of `POST /site/{siteId}/secret`.
    ChangeSiteSecret {
        /// The new secret, if the client makes its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<String>,
    }

    /// Request of `PUT /org/{orgId}/domain`.
    CreateDomain {
        /// The domain.
        base_domain: HostName,
    }

    /// Request of `PUT /org/{orgId}/resource`. Its name is either `fullDomain`, or `subdomain` in front of the
    /// domain `domainId`.
    CreateResource {
        /// Display name; the full name if not said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Short name; made from the name if not said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nice_id: Option<Slug>,
        /// Full name: it belongs to the organisation's nearest domain above it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        full_domain: Option<HostName>,
        /// The domain it belongs to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        domain_id: Option<DomainId>,
        /// The part in front of the domain; none = the domain itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subdomain: Option<String>,
        /// An HTTP resource; the only kind there is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        http: Option<bool>,
    }

    /// Request of `POST /resource/{resourceId}`.
    UpdateResource {
        /// Display name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Off = not in DNS and not routed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        enabled: Option<bool>,
    }

    /// Request of `PUT /resource/{resourceId}/target`.
    CreateTarget {
        /// The site whose connector reaches it.
        site_id: SiteId,
        /// Host name or address as seen from the site.
        ip: String,
        /// Port there.
        port: u16,
        /// How it is spoken to; `http` if not said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        method: Option<Method>,
        /// How it is checked; not at all if not said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        health_check: Option<HealthCheck>,
    }

    /// Request of `POST /target/{targetId}`.
    UpdateTarget {
        /// Host name or address as seen from the site.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ip: Option<String>,
        /// Port there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
        /// How it is spoken to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        method: Option<Method>,
        /// Off = gets no traffic.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        enabled: Option<bool>,
        /// How it is checked; here a null ends the checks.
        #[serde(default, deserialize_with = "said", skip_serializing_if = "Option::is_none")]
        health_check: Option<Option<HealthCheck>>,
    }

    /// How a target is checked: by its site's connector, or by nodes that reach it themselves.
    HealthCheck {
        /// Path asked for; none = a TCP connection is enough.
        #[serde(default)]
        path: Option<String>,
        /// Seconds between checks.
        #[serde(default = "HealthCheck::default_interval")]
        interval: u32,
        /// Seconds until a check counts as failed.
        #[serde(default = "HealthCheck::default_timeout")]
        timeout: u32,
        /// Failures in a row that make a target unhealthy.
        #[serde(default = "HealthCheck::default_threshold")]
        unhealthy_threshold: u32,
    }
}

/// Kinds of sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SiteKind {
    /// A private network with a connector.
    Newt,
}

impl HealthCheck {
    const fn default_interval() -> u32 {
        30
    }

    const fn default_timeout() -> u32 {
        5
    }

    const fn default_threshold() -> u32 {
        3
    }

    /// A check of `path` (none = a TCP connection) with the usual times.
    #[must_use]
    pub fn of(path: Option<String>) -> Self {
        Self {
            path,
            interval: Self::default_interval(),
            timeout: Self::default_timeout(),
            unhealthy_threshold: Self::default_threshold(),
        }
    }
}

impl From<HealthCheck> for pangolin_core::record::HealthCheck {
    fn from(check: HealthCheck) -> Self {
        let HealthCheck { path, interval, timeout, unhealthy_threshold } = check;
        Self { path, interval, timeout, unhealthy_threshold }
    }
}

impl From<pangolin_core::record::HealthCheck> for HealthCheck {
    fn from(check: pangolin_core::record::HealthCheck) -> Self {
        let pangolin_core::record::HealthCheck { path, interval, timeout, unhealthy_threshold } = check;
        Self { path, interval, timeout, unhealthy_threshold }
    }
}

/// Tells a null (`Some(None)`) from nothing (`None`).
fn said<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_field_of_a_request_is_refused_by_name() {
        let error = serde_json::from_str::<CreateSite>(r#"{"name":"Home","color":"red"}"#);
        assert!(error.is_err_and(|e| e.to_string().contains("color")));
    }

    #[test]
    fn an_update_tells_a_null_health_check_from_none() {
        let of = |text: &str| serde_json::from_str::<UpdateTarget>(text).expect("an update").health_check;
        assert_eq!(of("{}"), None);
        assert_eq!(of(r#"{"healthCheck":null}"#), Some(None));
        assert_eq!(of(r#"{"healthCheck":{"path":"/"}}"#), Some(Some(HealthCheck::of(Some("/".into())))));
    }

    #[test]
    fn a_created_site_is_flat_json() {
        let site = Site {
            site_id: SiteId(4),
            nice_id: "home".parse().expect("a short name"),
            org_id: "lab".parse().expect("a short name"),
            name: "Home".into(),
            newt_id: "abcdefghijklmno".into(),
            address: Ipv4Addr::new(100, 89, 1, 0),
            enabled: true,
            connector: None,
            home: None,
            epoch: None,
            standbys: vec![],
            created_at: Moment(pangolin_core::Timestamp(0)),
            local: None,
            region: None,
        };
        let created = CreatedSite { site, secret: Some("s".into()), endpoint: "https://p.example".into() };
        let value = serde_json::to_value(&created).expect("JSON");
        assert_eq!((&value["siteId"], &value["newtId"]), (&4.into(), &"abcdefghijklmno".into()));
        assert_eq!(serde_json::from_value::<CreatedSite>(value).expect("a site"), created);
    }
}
