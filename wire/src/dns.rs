//! DNS: records, zones, signing, transfers, and what a node answers.

use std::net::SocketAddr;

use ipnet::IpNet;
use pangolin_core::{HostName, Slug, dns::AnswerPolicy, rollover::KeptKey};
use serde::{Deserialize, Serialize};

use crate::{
    Pagination,
    shape::{answer, request},
};

answer! {
    /// A record set of the operator's own.
    RecordSet {
        /// Owner name.
        name: HostName,
        /// Type: `A`, `MX`, `TYPE123` …
        kind: String,
        /// Seconds that resolvers may keep it.
        ttl: u32,
        /// The values, as in a zone file.
        values: Vec<String>,
    }

    /// Answer of `GET /dns/zone/{zone}/records`.
    RecordSetList {
        /// The record sets, by name and type.
        record_sets: Vec<RecordSet>,
        /// Which part of them.
        pagination: Pagination,
    }

    /// A zone that the cluster answers for.
    Zone {
        /// Its name.
        zone: HostName,
        /// The organisation that it belongs to; none for the cluster's own.
        org_id: Option<Slug>,
        /// SOA SERIAL.
        serial: u32,
        /// Names with records.
        names: usize,
        /// The DS record for the parent, if the zone is signed.
        delegation_signer: Option<String>,
        /// Servers that keep copies, with the names of their keys.
        secondaries: Vec<Secondary>,
        /// The DS record of the next key, while the zone's key is exchanged.
        next_delegation_signer: Option<String>,
    }

    /// A server that keeps a copy of a zone.
    Secondary {
        /// Where it is told of changes.
        address: SocketAddr,
        /// Name of the key that it uses.
        key: HostName,
    }

    /// Answer of `GET /dns/zones`.
    ZoneList {
        /// The zones, by name.
        zones: Vec<Zone>,
        /// Which part of them.
        pagination: Pagination,
    }

    /// Answer of `GET /dns/zone/{zone}/file`.
    ZoneFile {
        /// The zone as it is served, in the form of a zone file.
        text: String,
    }

    /// Answer of `POST /dns/zone/{zone}/import`.
    ImportedRecords {
        /// How many record sets were brought in.
        record_sets: usize,
        /// What was left out, in words.
        skipped: Vec<String>,
    }

    /// Answer of `GET /dns/zone/{zone}/check`.
    ZoneCheck {
        /// What is as it should be.
        good: Vec<String>,
        /// What is not.
        bad: Vec<String>,
        /// The records that the parent has to have, as lines of a zone file.
        enter: Vec<String>,
    }

    /// Answer of `GET /dns/query`: what the node that is asked answers.
    DnsReply {
        /// Response code.
        rcode: String,
        /// Whether the zone is the cluster's.
        authoritative: bool,
        /// Lines of a zone file.
        answer: Vec<String>,
        /// Lines of a zone file.
        authority: Vec<String>,
        /// Lines of a zone file.
        additional: Vec<String>,
    }

    /// A rule that says where clients are.
    RegionRule {
        /// The clients.
        network: IpNet,
        /// Their region.
        region: Slug,
    }

    /// Answer of `GET /dns/regions`.
    RegionRuleList {
        /// The rules, by network.
        rules: Vec<RegionRule>,
        /// Which part of them.
        pagination: Pagination,
    }

    /// Answer of `PUT /dns/transfer-key`: shown once.
    NewTransferKey {
        /// Its name, which both sides use.
        name: HostName,
        /// `hmac-sha256`.
        algorithm: String,
        /// The secret, base64.
        secret: String,
    }

    /// Answer of `GET /dns/transfer-keys`.
    TransferKeyList {
        /// The keys' names.
        keys: Vec<HostName>,
        /// Which part of them.
        pagination: Pagination,
    }
}

request! {
    /// Request of `PUT /dns/record`: adds a value.
    AddRecord {
        /// Owner name.
        name: HostName,
        /// Type.
        kind: String,
        /// The value, as in a zone file; names in it are complete.
        value: String,
        /// TTL of the record set from here on.
        ttl: Option<u32>,
    }

    /// Request of `POST /dns/record/remove`.
    RemoveRecord {
        /// Owner name.
        name: HostName,
        /// Type.
        kind: String,
        /// The value; none = the whole record set.
        value: Option<String>,
    }

    /// Request of `POST /dns/zone/{zone}/import`.
    ImportRecords {
        /// A zone file.
        text: String,
        /// Drop the operator's own records of the zone first.
        #[serde(default)]
        replace: bool,
    }

    /// Request of `POST /dns/zone/{zone}/rollover`: one of a zone's two keys goes, if its parent does not need it.
    EndRollover {
        /// The one that stays.
        kept: KeptKey,
        /// Do not ask the parent: its DS records allow it, and nobody keeps former ones.
        #[serde(default)]
        believed: bool,
        /// A server of the parent to ask, instead of those that the node's resolver finds.
        server: Option<SocketAddr>,
    }

    /// Request of `POST /resource/{resourceId}/answers`.
    SetAnswers {
        /// How the resource's name is answered.
        policy: AnswerPolicy,
    }

    /// Request of `POST /dns/region`.
    SetRegion {
        /// The clients.
        network: IpNet,
        /// Their region; none = nothing is said about them any more.
        region: Option<Slug>,
    }

    /// Request of `PUT /dns/transfer-key`.
    CreateTransferKey {
        /// Its name, which both sides use.
        name: HostName,
    }

    /// Request of `POST /dns/zone/{zone}/secondary`.
    SetSecondary {
        /// Where the server is told of changes.
        address: SocketAddr,
        /// Name of the key that it uses; none = it is no secondary any more.
        key: Option<HostName>,
    }
}
