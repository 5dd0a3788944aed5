//! What a caller may see of the state. What they may not see is not there: the answer is the same as for something
//! that does not exist.

use pangolin_core::{
    ClusterState, DomainId, Object, ResourceId, RoleId, SiteId, Slug, TargetId, UserId,
    access::Principal,
    fabric::ProvisioningKey,
    record::{ApiKey, Domain, KeyScope, Org, Resource, Role, Site, Target, User},
};

use crate::failure::ApiFailure;

/// A state through the eyes of a caller.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) state: &'a ClusterState,
    pub(crate) principal: &'a Principal,
}

impl<'a> View<'a> {
    /// Whether things of this organisation may be seen and changed.
    pub(crate) fn sees(&self, org: &Slug) -> bool {
        self.principal.may_administer(org)
    }

    /// Whether keys of this reach may be seen and made: nobody hands out more than they have.
    pub(crate) fn sees_scope(&self, scope: &KeyScope) -> bool {
        match scope {
            KeyScope::Cluster => self.principal.is_administrator(),
            KeyScope::Org(org) => self.sees(org),
        }
    }

    fn pick<T>(
        &self,
        found: Option<&'a T>,
        org: impl FnOnce(&'a T) -> &'a Slug,
        object: impl FnOnce() -> Object,
    ) -> Result<&'a T, ApiFailure> {
        found.filter(|found| self.sees(org(found))).ok_or_else(|| ApiFailure::not_found(&object()))
    }

    pub(crate) fn org(&self, id: &Slug) -> Result<&'a Org, ApiFailure> {
        self.pick(self.state.orgs().get(id), |org| &org.id, || Object::Org(id.clone()))
    }

    pub(crate) fn role(&self, id: RoleId) -> Result<&'a Role, ApiFailure> {
        self.pick(self.state.roles().get(&id), |role| &role.org, || Object::Role(id))
    }

    pub(crate) fn site(&self, id: SiteId) -> Result<&'a Site, ApiFailure> {
        self.pick(self.state.sites().get(&id), |site| &site.org, || Object::Site(id))
    }

    pub(crate) fn domain(&self, id: DomainId) -> Result<&'a Domain, ApiFailure> {
        self.pick(self.state.domains().get(&id), |domain| &domain.org, || Object::Domain(id))
    }

    pub(crate) fn resource(&self, id: ResourceId) -> Result<&'a Resource, ApiFailure> {
        self.pick(self.state.resources().get(&id), |resource| &resource.org, || Object::Resource(id))
    }

    pub(crate) fn target(&self, id: TargetId) -> Result<&'a Target, ApiFailure> {
        let target = self.state.targets().get(&id);
        let seen = target.filter(|target| self.resource(target.resource).is_ok());
        seen.ok_or_else(|| ApiFailure::not_found(&Object::Target(id)))
    }

    /// Users are the cluster's: only its administrators get here.
    pub(crate) fn user(&self, id: UserId) -> Result<&'a User, ApiFailure> {
        let user = self.state.users().get(&id).filter(|_| self.principal.is_administrator());
        user.ok_or_else(|| ApiFailure::not_found(&Object::User(id)))
    }

    pub(crate) fn api_key(&self, id: &str) -> Result<&'a ApiKey, ApiFailure> {
        let key = self.state.api_keys().get(id).filter(|key| self.sees_scope(&key.scope));
        key.ok_or_else(|| ApiFailure::not_found(&Object::ApiKey(id.to_owned())))
    }
    pub(crate) fn provisioning_key(&self, id: &str) -> Result<&'a ProvisioningKey, ApiFailure> {
        let object = || Object::ProvisioningKey(id.to_owned());
        self.pick(self.state.fabric().provisioning_keys.get(id), |key| &key.org, object)
    }
}
