//! Answers that depend on where the client is: by rule, by database, by what its resolver passes on.

mod mmdb;
mod zone;

use std::{collections::BTreeMap, sync::Arc};

use domain::base::{
    Message, MessageBuilder, Name, Rtype,
    iana::{Class, OptRcode, OptionCode},
    opt::UnknownOptData,
};
use mmdb::database;
use pangolin_core::{
    plan::{DnsPlan, PlannedSet},
    record::RecordData,
};
use pangolin_dns::{Context, GeoDatabase, Outcome, Policy, RegionsFile, Signers, Store, Transport, answer};
use zone::{a, at, host};

/// `app.z.test` has other addresses in `eu`, in `de` and in `us`; `control.z.test` is the same everywhere.
fn store(rules: &[(&str, &str)]) -> Store {
    let set = |address: &str| PlannedSet { ttl: 30, data: vec![a(address)] };
    let sets = [
        ("app.z.test", 30, vec![a("192.0.2.1"), a("192.0.2.2"), a("192.0.2.3")]),
        ("app.z.test", 30, vec![RecordData::Other(65, vec![0, 1, 0])]),
        ("to-app.z.test", 30, vec![RecordData::Other(65, b"\0\x01\x03app\x01z\x04test\0".to_vec())]),
        ("control.z.test", 30, vec![a("192.0.2.9")]),
    ];
    let mut zone = zone::zone("z.test", 7, &sets);
    let near = [("eu", "192.0.2.1"), ("de", "192.0.2.2"), ("us", "192.0.2.3")].map(|(region, address)| {
        let set = set(address);
        (region.parse().expect("a region"), BTreeMap::from([(set.data[0].kind(), set)]))
    });
    zone.regional = BTreeMap::from([(host("app.z.test"), BTreeMap::from(near))]);
    let read = |(network, region): &(&str, &str)| {
        (network.parse().expect("a network"), region.parse().expect("a region"))
    };
    let plan = DnsPlan { zones: vec![zone], regions: rules.iter().map(read).collect(), ..DnsPlan::default() };
    Store::build(at(1), &plan, &Signers::new()).expect("a store")
}

/// A query, for a client whose resolver passes this on.
fn query(name: &str, subnet: Option<&[u8]>) -> Vec<u8> {
    let mut question = MessageBuilder::new_vec().question();
    let name: Name<Vec<u8>> = name.parse().expect("a name");
    question.push((name, Rtype::A, Class::IN)).expect("room");
    let mut additional = question.additional();
    let opt = additional.opt(|opt| {
        opt.set_udp_payload_size(1232);
        if let Some(subnet) = subnet {
            opt.push(&UnknownOptData::new(OptionCode::CLIENT_SUBNET, subnet).expect("short"))?;
        }
        Ok(())
    });
    opt.expect("room");
    additional.finish()
}

/// The last octets of what is answered, and the option of the reply.
fn ask(store: &Store, policy: &Policy, client: &str, query: &[u8]) -> (OptRcode, Vec<u8>, Option<Vec<u8>>) {
    let client = client.parse().expect("an address");
    let context = Context { policy, client, transport: Transport::Udp, now: zone::NOW, leader_contact: true };
    let mut reply = Vec::new();
    let Outcome::Answered(answered) = answer(store, &context, query, &mut reply) else { panic!("no reply") };
    let message = Message::from_octets(reply).expect("a reply");
    let addresses = message.answer().expect("a section").limit_to::<domain::rdata::A>();
    let last = addresses.map(|record| record.expect("a record").data().addr().octets()[3]);
    let option = message.opt().and_then(|opt| {
        let mut options = opt.opt().iter::<UnknownOptData<_>>().map(|option| option.expect("an option"));
        options.find(|o| o.code() == OptionCode::CLIENT_SUBNET).map(|o| o.as_slice().to_vec())
    });
    (answered.rcode, last.collect(), option)
}

#[test]
fn what_stands_beside_a_service_binding_is_of_the_same_region() {
    let store = store(&[("10.0.0.0/8", "eu"), ("10.9.0.0/16", "us")]);
    let policy = Policy::default();
    for (client, expected) in
        [("10.1.1.1", "ar app.z.test. 30 A 192.0.2.1"), ("10.9.1.1", "ar app.z.test. 30 A 192.0.2.3")]
    {
        for name in ["app.z.test", "to-app.z.test"] {
            let query = zone::query(name, Rtype::HTTPS, Some(1232));
            let client = client.parse().expect("an address");
            let context = Context {
                policy: &policy,
                client,
                transport: Transport::Udp,
                now: zone::NOW,
                leader_contact: true,
            };
            let mut reply = Vec::new();
            let Outcome::Answered(_) = answer(&store, &context, &query, &mut reply) else {
                panic!("no reply")
            };
            let shown = zone::show(&reply);
            let added: Vec<&str> = shown.lines().filter(|line| line.starts_with("ar ")).collect();
            assert_eq!(added, [expected], "{name} from {client}");
        }
    }
}

#[test]
fn rules_say_who_is_answered_what() {
    let store = store(&[("10.0.0.0/8", "eu"), ("10.9.0.0/16", "us"), ("10.8.0.0/16", "moon")]);
    let policy = Policy::default();
    let answered = |client: &str| ask(&store, &policy, client, &query("app.z.test", None)).1;
    assert_eq!(answered("10.1.1.1"), [1]);
    assert_eq!(answered("10.9.1.1"), [3]);
    assert_eq!(answered("10.8.1.1"), [1, 2, 3], "a region without nodes");
    assert_eq!(answered("192.0.2.77"), [1, 2, 3], "nobody knows where");
}

#[test]
fn what_a_resolver_passes_on_counts_and_the_reply_says_for_how_much_it_holds() {
    let store = store(&[("10.0.0.0/8", "eu"), ("10.9.0.0/16", "us")]);
    let policy = Policy::default();
    let us = [0, 1, 24, 0, 10, 9, 1];
    let (_, last, option) = ask(&store, &policy, "192.0.2.77", &query("app.z.test", Some(&us)));
    assert_eq!((last, option), (vec![3], Some(vec![0, 1, 24, 16, 10, 9, 1])));
    let (_, last, option) = ask(&store, &policy, "192.0.2.77", &query("control.z.test", Some(&us)));
    assert_eq!((last, option), (vec![9], Some(vec![0, 1, 24, 0, 10, 9, 1])), "the same for everybody");
    let nothing = [0, 1, 0, 0];
    let (_, last, option) = ask(&store, &policy, "10.9.0.1", &query("app.z.test", Some(&nothing)));
    assert_eq!((last, option), (vec![3], Some(vec![0, 1, 0, 16])), "then the resolver's own address");
    let (rcode, last, _) = ask(&store, &policy, "10.9.0.1", &query("app.z.test", Some(&[0, 1, 24, 0, 10])));
    assert_eq!((rcode, last), (OptRcode::FORMERR, vec![]), "malformed");
}

#[test]
fn a_database_tells_where_no_rule_does_the_smallest_area_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("test.mmdb");
    let europe = [("country", "iso_code", "FR"), ("continent", "code", "EU")];
    let germany = [("country", "iso_code", "DE"), ("continent", "code", "EU")];
    let networks = [([172, 16, 0, 0], 12, europe), ([172, 32, 0, 0], 12, germany)];
    std::fs::write(&path, database(&networks)).expect("a file");
    let database = Arc::new(GeoDatabase::open(&path).expect("a database"));
    let policy = Policy { regions: Some(database), ..Policy::default() };
    let store = store(&[("172.16.1.0/24", "us")]);
    let answered = |client: &str| ask(&store, &policy, client, &query("app.z.test", None)).1;
    assert_eq!(answered("172.17.0.1"), [1], "the continent");
    assert_eq!(answered("172.33.0.1"), [2], "the country before the continent");
    assert_eq!(answered("172.16.1.1"), [3], "a rule before the database");
    assert_eq!(answered("192.0.2.1"), [1, 2, 3]);
    std::fs::write(&path, b"no database").expect("a file");
    let refused = GeoDatabase::open(&path).expect_err("an error").to_string();
    assert!(refused.contains("cannot be used"), "{refused}");
}

#[test]
fn a_database_is_read_again_when_its_file_is_another_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("test.mmdb");
    let of = |network: [u8; 4]| {
        database(&[(network, 12, [("country", "iso_code", "DE"), ("continent", "code", "EU")])])
    };
    std::fs::write(&path, of([172, 16, 0, 0])).expect("a file");
    let (mut file, first) = RegionsFile::open(&path).expect("a database");
    let store = store(&[]);
    let answered = |database: GeoDatabase, client: &str| {
        let policy = Policy { regions: Some(Arc::new(database)), ..Policy::default() };
        ask(&store, &policy, client, &query("app.z.test", None)).1
    };
    assert_eq!(answered(first, "172.16.0.1"), [2]);
    assert!(file.changed().expect("a database").is_none());
    // As it is replaced by those who fetch it: by another file, at once.
    let other = folder.path().join("other.mmdb");
    std::fs::write(&other, of([172, 32, 0, 0])).expect("a file");
    std::fs::rename(&other, &path).expect("replaced");
    let second = file.changed().expect("a database").expect("another one");
    assert_eq!(answered(second, "172.32.0.1"), [2]);
    std::fs::write(&path, b"no database").expect("a file");
    assert!(file.changed().is_err() && file.changed().expect("said once").is_none());
    std::fs::remove_file(&path).expect("removed");
    assert!(file.changed().expect("it is about to be replaced").is_none());
    assert!(RegionsFile::open(&path).is_err());
}
