//! Sites.

use pangolin_core::{CatalogChange, ClusterState, Object, SiteId, Slug, record};
use pangolin_wire::{ChangeSiteSecret, Code, Connector, CreateSite, CreatedSite, Site, SiteList, UpdateSite};

use super::{
    Routes,
    credentials::{self, Pair, Secret},
};
use crate::{
    answer::Answer,
    call::{Call, Changed},
    failure::ApiFailure,
};

/// The port that `https://` means.
const HTTPS_PORT: u16 = 443;

pub(super) fn routes(routes: &mut Routes) {
    routes.put("/org/{orgId}/site", create);
    routes.get("/org/{orgId}/sites", list);
    routes.get("/org/{orgId}/site/{niceId}", show_by_name);
    routes.get("/site/{siteId}", show);
    routes.post("/site/{siteId}", update);
    routes.delete("/site/{siteId}", remove);
    routes.post("/site/{siteId}/secret", change_secret);
}

async fn create(call: Call) -> Result<Answer, ApiFailure> {
    let org: Slug = call.parameter("orgId")?;
    call.view().org(&org)?;
    let CreateSite { name, kind: _, nice_id, newt_id, secret } = call.body()?;
    let Pair { id: connector_id, secret } = Pair::given_or_new(newt_id, secret, "newtId")?;
    let connector_secret = secret.digest();
    let change = CatalogChange::SiteCreated { id: None, org, nice_id, name, connector_id, connector_secret };
    let changed = call.change(change).await?;
    let id = changed.made(|object| match object {
        Object::Site(id) => Some(*id),
        _ => None,
    })?;
    let site = with_secret(&call, &changed, id, secret)?;
    let message = format!("site {} created with id {id}", site.site.nice_id);
    Answer::created(changed.revision, credentials::message(&message, site.secret.as_ref()), &site)
}

async fn list(call: Call) -> Result<Answer, ApiFailure> {
    let org: Slug = call.parameter("orgId")?;
    call.view().org(&org)?;
    let sites = call.state.sites().values().filter(|site| site.org == org);
    let (sites, pagination) = call.page(sites.map(|site| render(&call.state, site)))?;
    Answer::ok(call.state.revision(), format!("sites of org {org}"), &SiteList { sites, pagination })
}

async fn show_by_name(call: Call) -> Result<Answer, ApiFailure> {
    let (org, nice_id): (Slug, Slug) = (call.parameter("orgId")?, call.parameter("niceId")?);
    call.view().org(&org)?;
    let site = call.state.sites().values().find(|site| site.org == org && site.nice_id == nice_id);
    let site = site
        .ok_or_else(|| ApiFailure::new(Code::NotFound, format!("there is no site {nice_id} in org {org}")))?;
    Answer::ok(call.state.revision(), format!("site {}", site.id), &render(&call.state, site))
}

async fn show(call: Call) -> Result<Answer, ApiFailure> {
    let id = call.parameter("siteId")?;
    let site = render(&call.state, call.view().site(id)?);
    Answer::ok(call.state.revision(), format!("site {id}"), &site)
}

async fn update(call: Call) -> Result<Answer, ApiFailure> {
    let (id, UpdateSite { name, enabled }) = (call.parameter("siteId")?, call.body()?);
    let site = call.view().site(id)?;
    if name.is_none() && enabled.is_none() {
        return Err(ApiFailure::invalid("nothing is to be changed: give name or enabled"));
    }
    let (name, enabled) = (name.unwrap_or_else(|| site.name.clone()), enabled.unwrap_or(site.enabled));
    let changed = call.change(CatalogChange::SiteChanged { id, name, enabled }).await?;
    let site = render(&changed.state, call.view_of(&changed).site(id)?);
    Answer::ok(changed.revision, format!("site {id} updated"), &site)
}

async fn remove(call: Call) -> Result<Answer, ApiFailure> {
    let id: SiteId = call.parameter("siteId")?;
    call.may_remove(|view| view.site(id).map(|_| ()))?;
    let changed = call.change(CatalogChange::SiteRemoved(id)).await?;
    Ok(Answer::done(changed.revision, format!("site {id} deleted")))
}

async fn change_secret(call: Call) -> Result<Answer, ApiFailure> {
    let (id, ChangeSiteSecret { secret }) = (call.parameter("siteId")?, call.body()?);
    call.view().site(id)?;
    let secret = Secret::given_or_new(secret)?;
    let change = CatalogChange::SiteSecretChanged { id, connector_secret: secret.digest() };
    let changed = call.change(change).await?;
    let site = with_secret(&call, &changed, id, secret)?;
    let message = format!("site {id} has a new secret");
    Answer::ok(changed.revision, credentials::message(&message, site.secret.as_ref()), &site)
}

fn with_secret(
    call: &Call,
    changed: &Changed,
    id: SiteId,
    secret: Secret,
) -> Result<CreatedSite, ApiFailure> {
    let site = call.view_of(changed).site(id)?;
    Ok(CreatedSite {
        site: render(&changed.state, site),
        secret: secret.if_kept_as(site.connector_secret),
        endpoint: endpoint(&changed.state),
    })
}

/// What connectors connect to. Where nodes have different ports, which only happens when several run on one host,
/// the first node's is as good as any.
fn endpoint(state: &ClusterState) -> String {
    let host = state.settings().map(|settings| settings.control_host.as_str()).unwrap_or_default();
    let data = state.nodes().values().find(|node| node.spec.role == record::NodeRole::Data);
    match data.map(|node| node.spec.https_port) {
        Some(port) if port != HTTPS_PORT => format!("https://{host}:{port}"),
        _ => format!("https://{host}"),
    }
}

pub(super) fn render(state: &ClusterState, site: &record::Site) -> Site {
    let local = state.traffic().local_sites.get(&site.id);
    let connector = state.connectors().get(&site.id).map(|connector| Connector {
        version: connector.version.clone(),
        multi_homed: connector.multi_homed,
        since: connector.since.into(),
    });
    let placement = state.placements().get(&site.id);
    Site {
        site_id: site.id,
        nice_id: site.nice_id.clone(),
        org_id: site.org.clone(),
        name: site.name.clone(),
        newt_id: site.connector_id.clone(),
        address: site.address,
        enabled: site.enabled,
        connector,
        home: placement.map(|placement| placement.home),
        epoch: placement.map(|placement| placement.epoch.0),
        standbys: placement.map(|placement| placement.standbys.clone()).unwrap_or_default(),
        created_at: site.created_at.into(),
        local: local.map(|nodes| nodes.iter().copied().collect()),
        region: state.fabric().regions.get(&site.id).cloned(),
    }
}
