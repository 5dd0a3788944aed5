//! What is answered: one table of cases by RFC.

mod zone;

use domain::base::{
    Message, MessageBuilder, Name, Rtype,
    iana::OptionCode,
    opt::{Cookie, UnknownOptData},
};
use pangolin_core::{
    name::HostName,
    plan::{DnsPlan, PlannedSet},
    record::{RecordData, RecordKind},
};
use pangolin_dns::{CookieSecret, DnsError, Outcome, Policy, Signers, Store, Transport, answer};
use zone::{
    CLIENT, NOW, a, aaaa, ask, at, cname, context, host, ns, plan, policy, query, reply_to, show, store,
};

const SOA: &str = "SOA n1.z.test. hostmaster.z.test. 7 14400 3600 1209600 30";

fn negative(rcode: &str) -> String {
    format!("{rcode} aa\nns z.test. 30 {SOA}")
}

#[test]
fn data_is_answered_in_the_planned_order() {
    assert_eq!(
        ask("app.z.test.", Rtype::A),
        "NOERROR aa\nan app.z.test. 30 A 192.0.2.2\nan app.z.test. 30 A 192.0.2.1"
    );
    assert_eq!(ask("z.test.", Rtype::SOA), format!("NOERROR aa\nan z.test. 300 {SOA}"));
    assert_eq!(ask("z.test.", Rtype::CAA), "NOERROR aa\nan z.test. 300 CAA 0 issue \"ca.test\"");
    assert_eq!(ask("twice.z.test.", Rtype::A), "NOERROR aa\nan twice.z.test. 30 A 192.0.2.3");
    assert_eq!(
        ask("_acme-challenge.app.z.test.", Rtype::TXT),
        "NOERROR aa\nan _acme-challenge.app.z.test. 0 TXT \"token-1\"\n\
         an _acme-challenge.app.z.test. 0 TXT \"token-2\""
    );
    assert_eq!(ask("empty.z.test.", Rtype::TXT), "NOERROR aa\nan empty.z.test. 30 TXT \"\"");
    let long = ask("long.z.test.", Rtype::TXT);
    assert!(long.ends_with(&format!("\"{}\" \"{}\"", "x".repeat(255), "x".repeat(45))), "{long}");
}

#[test]
fn names_that_records_point_at_bring_their_addresses() {
    assert_eq!(
        ask("z.test.", Rtype::NS),
        "NOERROR aa\nan z.test. 3600 NS n1.z.test.\nan z.test. 3600 NS n2.z.test.\n\
         ar n1.z.test. 3600 A 192.0.2.1\nar n1.z.test. 3600 AAAA 2001:db8::1\nar n2.z.test. 3600 A 192.0.2.2"
    );
    assert_eq!(
        ask("z.test.", Rtype::MX),
        "NOERROR aa\nan z.test. 300 MX 10 mail.z.test.\nan z.test. 300 MX 20 mx.else.test.\n\
         ar mail.z.test. 30 A 192.0.2.9"
    );
    assert_eq!(
        ask("_sip._tcp.z.test.", Rtype::SRV),
        "NOERROR aa\nan _sip._tcp.z.test. 30 SRV 1 2 5060 app.z.test\n\
         ar app.z.test. 30 A 192.0.2.2\nar app.z.test. 30 A 192.0.2.1"
    );
}

/// HTTPS data of this priority that points at a name in wire form, with HTTP/2.
fn https(priority: u8, target: &[u8]) -> RecordData {
    let parameters: &[u8] = if priority == 0 { &[] } else { &[0, 1, 0, 3, 2, b'h', b'2'] };
    RecordData::Other(65, [&[0, priority][..], target, parameters].concat())
}

#[test]
fn service_bindings_bring_the_addresses_of_what_they_point_at() {
    let both = || vec![a("192.0.2.1"), a("192.0.2.2")];
    let sets = [
        ("app.z.test", 30, both()),
        ("app.z.test", 30, vec![aaaa("2001:db8::1")]),
        ("app.z.test", 30, vec![https(1, b"\0")]),
        ("alias.z.test", 60, vec![cname("app.z.test")]),
        ("*.wild.z.test", 30, vec![a("192.0.2.7")]),
        ("*.wild.z.test", 30, vec![https(1, b"\0")]),
        ("other.z.test", 30, vec![https(1, b"\x03App\x01z\x04test\0"), https(2, b"\x01x\x04else\0")]),
        ("lead.z.test", 30, vec![https(0, b"\x03app\x01z\x04test\0")]),
        ("none.z.test", 30, vec![https(0, b"\0")]),
        ("none.z.test", 30, vec![a("192.0.2.8")]),
        ("sub.z.test", 60, vec![ns("ns.sub.z.test")]),
        ("ns.sub.z.test", 60, vec![a("192.0.2.9")]),
        ("glue.z.test", 30, vec![https(1, b"\x02ns\x03sub\x01z\x04test\0")]),
    ];
    let mut zone = zone::zone("z.test", 7, &sets);
    let plan = DnsPlan { zones: vec![zone.clone()], ..DnsPlan::default() };
    let store = Store::build(at(1), &plan, &Signers::new()).expect("a store");
    let added = |name: &str| {
        let reply =
            reply_to(&store, Transport::Udp, &query(name, Rtype::HTTPS, Some(1232))).expect("a reply");
        let shown = show(&reply);
        assert!(shown.starts_with("NOERROR aa"), "{shown}");
        shown.lines().filter_map(|line| line.strip_prefix("ar ").map(str::to_owned)).collect::<Vec<_>>()
    };
    let of_app =
        ["app.z.test. 30 A 192.0.2.1", "app.z.test. 30 A 192.0.2.2", "app.z.test. 30 AAAA 2001:db8::1"];
    for name in ["app.z.test.", "alias.z.test.", "lead.z.test."] {
        assert_eq!(added(name), of_app, "{name}");
    }
    // The owner is written as it stands in the record that points there.
    assert_eq!(added("other.z.test."), of_app.map(|line| line.replace("app", "App")));
    assert_eq!(added("x.wild.z.test."), ["x.wild.z.test. 30 A 192.0.2.7"]);
    for name in ["none.z.test.", "glue.z.test."] {
        assert_eq!(added(name), Vec::<String>::new(), "{name}");
    }
    // They are left out where they do not fit.
    let wide = (0..100).map(|n| a(&format!("198.51.100.{n}"))).collect::<Vec<_>>();
    zone.sets.insert(
        host("app.z.test"),
        zone::zone("z.test", 7, &[("app.z.test", 30, wide), ("app.z.test", 30, vec![https(1, b"\0")])])
            .sets
            .remove(&host("app.z.test"))
            .expect("sets"),
    );
    let store = Store::build(at(1), &DnsPlan { zones: vec![zone], ..DnsPlan::default() }, &Signers::new())
        .expect("a store");
    let shown =
        show(&reply_to(&store, Transport::Udp, &query("app.z.test.", Rtype::HTTPS, None)).expect("a reply"));
    assert!(shown.starts_with("NOERROR aa\nan app.z.test. 30 HTTPS") && !shown.contains("ar "), "{shown}");
}

#[test]
fn what_is_not_there_is_denied_with_the_soa_at_the_negative_ttl() {
    let no_data = negative("NOERROR");
    let no_name = negative("NXDOMAIN");
    for (name, kind, expected) in [
        ("app.z.test.", Rtype::AAAA, &no_data),
        ("app.z.test.", Rtype::HTTPS, &no_data),
        ("z.test.", Rtype::A, &no_data),
        ("z.test.", Rtype::DS, &no_data),
        ("app.z.test.", Rtype::SOA, &no_data),
        ("app.z.test.", Rtype::RRSIG, &no_data),
        // Empty non-terminals exist.
        ("ent.z.test.", Rtype::A, &no_data),
        ("er.ent.z.test.", Rtype::TXT, &no_data),
        ("_tcp.z.test.", Rtype::SRV, &no_data),
        ("wild.z.test.", Rtype::A, &no_data),
        ("nope.z.test.", Rtype::A, &no_name),
        ("x.app.z.test.", Rtype::A, &no_name),
        ("x.ent.z.test.", Rtype::TXT, &no_name),
        ("a.b.c.d.e.f.g.h.i.j.z.test.", Rtype::A, &no_name),
    ] {
        assert_eq!(&ask(name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn wildcards_stand_for_names_that_do_not_exist() {
    assert_eq!(ask("x.wild.z.test.", Rtype::A), "NOERROR aa\nan x.wild.z.test. 30 A 192.0.2.7");
    assert_eq!(ask("x.y.wild.z.test.", Rtype::A), "NOERROR aa\nan x.y.wild.z.test. 30 A 192.0.2.7");
    assert_eq!(ask("*.wild.z.test.", Rtype::A), "NOERROR aa\nan *.wild.z.test. 30 A 192.0.2.7");
    assert_eq!(ask("x.wild.z.test.", Rtype::MX), negative("NOERROR"));
    assert_eq!(ask("real.wild.z.test.", Rtype::A), negative("NOERROR"), "the name exists");
    assert_eq!(ask("x.real.wild.z.test.", Rtype::A), negative("NXDOMAIN"), "its encloser has no wildcard");
    assert_eq!(
        ask("x.aliased.z.test.", Rtype::A),
        "NOERROR aa\nan x.aliased.z.test. 30 CNAME app.z.test.\n\
         an app.z.test. 30 A 192.0.2.2\nan app.z.test. 30 A 192.0.2.1"
    );
}

#[test]
fn aliases_are_followed_within_the_zone() {
    assert_eq!(
        ask("alias2.z.test.", Rtype::A),
        "NOERROR aa\nan alias2.z.test. 60 CNAME alias.z.test.\nan alias.z.test. 60 CNAME app.z.test.\n\
         an app.z.test. 30 A 192.0.2.2\nan app.z.test. 30 A 192.0.2.1"
    );
    let only = |name: &str, target: &str| format!("NOERROR aa\nan {name} 60 CNAME {target}");
    assert_eq!(ask("alias.z.test.", Rtype::CNAME), only("alias.z.test.", "app.z.test."));
    assert_eq!(ask("out.z.test.", Rtype::A), only("out.z.test.", "www.else.test."));
    assert_eq!(ask("other.z.test.", Rtype::A), only("other.z.test.", "www.y.test."), "not across zones");
    assert_eq!(
        ask("alias.z.test.", Rtype::AAAA),
        format!("{}\nns z.test. 30 {SOA}", only("alias.z.test.", "app.z.test."))
    );
    assert_eq!(
        ask("dangling.z.test.", Rtype::A),
        format!("NXDOMAIN aa\nan dangling.z.test. 60 CNAME nothing.z.test.\nns z.test. 30 {SOA}"),
        "RFC 6604"
    );
    assert_eq!(
        ask("to-ent.z.test.", Rtype::A),
        format!("{}\nns z.test. 30 {SOA}", only("to-ent.z.test.", "ent.z.test."))
    );
    let circle = ask("loop1.z.test.", Rtype::A);
    assert_eq!(circle.matches("CNAME").count(), 2, "the circle is left where it closes: {circle}");
    assert!(ask("mixed.z.test.", Rtype::A).contains("CNAME app.z.test."), "nothing stands beside an alias");
}

#[test]
fn delegated_names_are_referred_with_glue() {
    let referral = "ns sub.z.test. 3600 NS ns.sub.z.test.\nns sub.z.test. 3600 NS n2.z.test.\n\
                    ns sub.z.test. 3600 NS ns.else.test.\n\
                    ar ns.sub.z.test. 3600 A 198.51.100.1\nar n2.z.test. 3600 A 192.0.2.2";
    for (name, kind) in [
        ("www.sub.z.test.", Rtype::A),
        ("sub.z.test.", Rtype::NS),
        ("sub.z.test.", Rtype::A),
        ("ns.sub.z.test.", Rtype::A),
        ("hidden.sub.z.test.", Rtype::A),
        ("x.sub.sub.z.test.", Rtype::A),
        ("x.sub.z.test.", Rtype::DS),
    ] {
        assert_eq!(ask(name, kind), format!("NOERROR\n{referral}"), "{name} {kind}");
    }
    assert_eq!(ask("sub.z.test.", Rtype::DS), negative("NOERROR"), "DS is the parent's");
    assert_eq!(
        ask("to-sub.z.test.", Rtype::A),
        format!("NOERROR aa\nan to-sub.z.test. 60 CNAME www.sub.z.test.\n{referral}")
    );
    let crowd = query("x.crowd.z.test.", Rtype::A, Some(1232));
    let crowd = reply_to(&store(), Transport::Udp, &crowd).expect("a reply");
    assert_eq!(show(&crowd), "NOERROR tc", "RFC 9471: a referral without its glue is truncated");
}

#[test]
fn refusals_have_the_code_that_says_why() {
    assert_eq!(ask("else.test.", Rtype::A), "REFUSED");
    assert_eq!(ask("test.", Rtype::A), "REFUSED");
    assert_eq!(ask(".", Rtype::NS), "REFUSED");
    assert_eq!(ask("az.test.", Rtype::A), "REFUSED", "not at a label boundary");
    assert_eq!(ask("z.test.", Rtype::AXFR), "REFUSED");
    assert_eq!(ask("z.test.", Rtype::OPT), "FORMERR");
    assert_eq!(ask("z.test.", Rtype::TSIG), "NOTIMP");
    assert_eq!(ask("bad.z.test.", Rtype::CAA), "SERVFAIL", "a value without DNS form");
    assert_eq!(ask("bad.z.test.", Rtype::A), "NOERROR aa\nan bad.z.test. 30 A 192.0.2.4");
    let mut chaos = query("app.z.test.", Rtype::A, None);
    let end = chaos.len();
    chaos[end - 1] = 3;
    assert_eq!(show(&reply_to(&store(), Transport::Udp, &chaos).expect("a reply")), "REFUSED");
}

#[test]
fn any_is_answered_with_one_set() {
    let any = ask("z.test.", Rtype::ANY);
    assert_eq!(any.matches("\nan").count(), 2, "{any}");
    assert_eq!(ask("alias.z.test.", Rtype::ANY), "NOERROR aa\nan alias.z.test. 60 CNAME app.z.test.");
    assert_eq!(ask("ent.z.test.", Rtype::ANY), negative("NOERROR"));
    assert_eq!(ask("y.test.", Rtype::ANY).matches("SOA").count(), 1, "an apex with nothing else");
}

#[test]
fn the_question_comes_back_as_it_was_written() {
    let query = query("aPp.Z.tEsT.", Rtype::A, None);
    let reply = reply_to(&store(), Transport::Udp, &query).expect("a reply");
    assert_eq!(reply[12..query.len()], query[12..]);
    assert_eq!((reply[0], reply[1], reply[2], reply[3]), (0x12, 0x34, 0x85, 0), "QR AA RD");
    assert!(show(&reply).contains("an aPp.Z.tEsT. 30 A"));
    let negative = zone::query("nO.Z.tEsT.", Rtype::A, None);
    assert!(
        show(&reply_to(&store(), Transport::Udp, &negative).expect("a reply")).contains("ns Z.tEsT. 30 SOA")
    );
}

#[test]
fn a_store_without_a_plan_says_servfail_only() {
    let empty = Store::default();
    for (name, kind) in [("app.z.test.", Rtype::A), ("else.test.", Rtype::NS), (".", Rtype::SOA)] {
        let reply = reply_to(&empty, Transport::Udp, &query(name, kind, None)).expect("a reply");
        assert_eq!(show(&reply), "SERVFAIL");
    }
    let none = Store::build(at(1), &DnsPlan::default(), &Signers::new()).expect("a plan");
    let reply = reply_to(&none, Transport::Udp, &query("z.test.", Rtype::A, None)).expect("a reply");
    assert_eq!(show(&reply), "REFUSED", "a plan without zones is a plan");
}

#[test]
fn what_does_not_fit_is_truncated_by_udp_and_whole_by_tcp() {
    let store = store();
    let len = |transport, payload| {
        let reply =
            reply_to(&store, transport, &query("many.z.test.", Rtype::TXT, payload)).expect("a reply");
        (show(&reply).lines().next().map(str::to_owned).expect("a line"), reply.len())
    };
    assert_eq!(len(Transport::Udp, None), ("NOERROR aa tc".to_owned(), 29));
    assert_eq!(len(Transport::Udp, Some(1232)), ("NOERROR aa tc".to_owned(), 40));
    assert_eq!(len(Transport::Udp, Some(65_535)), ("NOERROR aa tc".to_owned(), 40), "never above 1232");
    let (flags, bytes) = len(Transport::Tcp, None);
    assert!(flags == "NOERROR aa" && bytes > 3000, "{flags} {bytes}");
    // Additional records that do not fit are left out without a word.
    let (_, full) = len(Transport::Tcp, Some(0));
    assert!(full > 3000, "TCP has nothing to do with the payload size");
}

// --- EDNS -------------------------------------------------------------------------------------------------------

fn edns(build: impl FnOnce(&mut domain::base::message_builder::OptBuilder<'_, Vec<u8>>)) -> Vec<u8> {
    let mut question = MessageBuilder::new_vec().question();
    question.push((Name::<Vec<u8>>::vec_from_str("app.z.test.").expect("a name"), Rtype::A)).expect("room");
    let mut additional = question.additional();
    additional
        .opt(|opt| {
            build(opt);
            Ok(())
        })
        .expect("room");
    additional.finish()
}

struct ReplyOpt {
    payload: u16,
    version: u8,
    dnssec_ok: bool,
    options: Vec<(OptionCode, Vec<u8>)>,
    cookie: Option<Cookie>,
}

fn opt_of(reply: &[u8]) -> ReplyOpt {
    let message = Message::from_octets(reply).expect("a header");
    let opt = message.opt().expect("an OPT record");
    let options = opt.opt().iter::<UnknownOptData<_>>().map(|option| {
        let option = option.expect("an option");
        (option.code(), option.as_slice().to_vec())
    });
    ReplyOpt {
        payload: opt.udp_payload_size(),
        version: opt.version(),
        dnssec_ok: opt.dnssec_ok(),
        options: options.collect(),
        cookie: opt.opt().cookie(),
    }
}

#[test]
fn edns_is_answered_with_edns_and_only_then() {
    let reply = reply_to(&store(), Transport::Udp, &edns(|opt| opt.set_dnssec_ok(true))).expect("a reply");
    let opt = opt_of(&reply);
    assert_eq!((opt.payload, opt.version, opt.dnssec_ok), (1232, 0, true));
    assert!(opt.options.is_empty());
    let plain = reply_to(&store(), Transport::Udp, &query("app.z.test.", Rtype::A, None)).expect("a reply");
    assert!(Message::from_octets(plain.as_slice()).expect("a header").opt().is_none());
}

#[test]
fn other_versions_of_edns_get_badvers() {
    let reply = reply_to(&store(), Transport::Udp, &edns(|opt| opt.set_version(1))).expect("a reply");
    assert_eq!(show(&reply), "BADVERS");
    assert_eq!(opt_of(&reply).version, 0);
}

#[test]
fn nsid_is_told_to_those_who_ask() {
    let asking = edns(|opt| opt.push_raw_option(OptionCode::NSID, 0, |_| Ok(())).expect("room"));
    let reply = reply_to(&store(), Transport::Udp, &asking).expect("a reply");
    assert_eq!(opt_of(&reply).options, [(OptionCode::NSID, b"n1".to_vec())]);
}

#[test]
fn bad_edns_is_a_format_error() {
    let good = edns(|_| {});
    let question_end = good.len() - 11;
    let mut two = good.clone();
    two.extend_from_slice(&good[question_end..]);
    two[11] = 2;
    let mut owned = good[..question_end].to_vec();
    owned.extend_from_slice(b"\x01a");
    owned.extend_from_slice(&good[question_end..]);
    let mut short_option = good.clone();
    let end = short_option.len();
    short_option[end - 1] = 3;
    short_option.extend_from_slice(&[0, 3, 0]);
    let mut trailing = good.clone();
    trailing.push(0);
    for (what, message) in [
        ("two OPT records", two),
        ("an OPT record with an owner", owned),
        ("half an option", short_option),
        ("bytes behind the message", trailing),
        ("a cut OPT record", good[..good.len() - 1].to_vec()),
    ] {
        let reply = reply_to(&store(), Transport::Udp, &message).expect(what);
        assert_eq!((show(&reply).as_str(), reply.len()), ("FORMERR", question_end), "{what}");
    }
}

#[test]
fn malformed_messages_get_a_bare_header_and_replies_get_nothing() {
    let good = query("app.z.test.", Rtype::A, None);
    let with = |at: usize, value: u8| {
        let mut message = good.clone();
        message[at] = value;
        message
    };
    let store = store();
    for (what, message, expected) in [
        ("a reply", with(2, 0x80), None),
        ("eleven bytes", good[..11].to_vec(), None),
        ("nothing", Vec::new(), None),
        ("no question", good[..12].to_vec(), Some("FORMERR")),
        ("two questions", with(5, 2), Some("FORMERR")),
        ("question count 0 with a question behind", with(5, 0), Some("FORMERR")),
        ("a cut question", good[..good.len() - 1].to_vec(), Some("FORMERR")),
        ("a pointer in the question", with(12, 0xc0), Some("FORMERR")),
        ("UPDATE", with(2, 5 << 3), Some("NOTIMP")),
        ("opcode 15", with(2, 15 << 3 | 1), Some("NOTIMP")),
    ] {
        let reply = reply_to(&store, Transport::Udp, &message);
        assert_eq!(reply.as_deref().map(show).as_deref(), expected, "{what}");
        if let Some(reply) = reply {
            assert_eq!(reply.len(), 12, "{what}");
            assert_eq!(reply[2] & 0x01, 0, "{what}: RD is copied for queries alone");
        }
    }
    let answers = reply_to(&store, Transport::Udp, &with(7, 1)).expect("a reply");
    assert_eq!((show(&answers).as_str(), answers.len()), ("FORMERR", good.len()), "a query with answers");
}

// --- cookies ----------------------------------------------------------------------------------------------------

fn cookie_query(cookie: &[u8]) -> Vec<u8> {
    let length = u16::try_from(cookie.len()).expect("short");
    edns(|opt| {
        let append = |target: &mut _| domain::dep::octseq::OctetsBuilder::append_slice(target, cookie);
        opt.push_raw_option(OptionCode::COOKIE, length, append).expect("room");
    })
}

fn cookie_of(reply: &[u8]) -> Option<Cookie> {
    opt_of(reply).cookie
}

fn with_cookie(cookie: &[u8], now: u32, policy: &Policy) -> (Vec<u8>, bool) {
    let mut context = context(policy, Transport::Udp);
    context.now = now;
    let mut reply = Vec::new();
    match answer(&store(), &context, &cookie_query(cookie), &mut reply) {
        Outcome::Answered(answered) => (reply, answered.cookie_valid),
        Outcome::Dropped => panic!("dropped"),
    }
}

fn wire(cookie: &Cookie) -> Vec<u8> {
    let mut wire = Vec::new();
    let Ok(()) = domain::base::opt::ComposeOptData::compose_option(cookie, &mut wire);
    wire
}

#[test]
fn cookies_are_given_and_recognised_for_an_hour_from_the_same_address() {
    let policy = policy();
    let (reply, valid) = with_cookie(b"12345678", NOW, &policy);
    assert!(!valid, "a client cookie proves nothing");
    let full = wire(&cookie_of(&reply).expect("a cookie"));
    assert_eq!((full.len(), &full[..8]), (24, b"12345678".as_slice()));
    for (later, expected) in
        [(0, true), (3600, true), (3601, false), (u32::MAX - 200, true), (u32::MAX - 400, false)]
    {
        assert_eq!(with_cookie(&full, NOW.wrapping_add(later), &policy).1, expected, "{later} s later");
    }
    let mut forged = full.clone();
    forged[23] ^= 1;
    let (reply, valid) = with_cookie(&forged, NOW, &policy);
    assert!(!valid && show(&reply).starts_with("NOERROR"));
    let mut rotated = policy.clone();
    rotated.cookie_secrets.insert(0, CookieSecret([9; 16]));
    assert!(with_cookie(&full, NOW, &rotated).1, "the previous secret still counts");
    let other = Policy { cookie_secrets: vec![CookieSecret([9; 16])], ..policy };
    assert!(!with_cookie(&full, NOW, &other).1);
    let none = Policy { cookie_secrets: Vec::new(), ..other };
    assert!(cookie_of(&with_cookie(&full, NOW, &none).0).is_none());
}

#[test]
fn server_cookies_are_those_of_rfc_9018() {
    // RFC 9018 appendix A.1.
    let policy = Policy {
        cookie_secrets: vec![CookieSecret(0xe5e9_73e5_a6b2_a43f_48e7_dc84_9e37_bfcf_u128.to_be_bytes())],
        nsid: Vec::new(),
        regions: None,
    };
    let mut context = context(&policy, Transport::Udp);
    context.client = "198.51.100.100".parse().expect("an address");
    context.now = 1_559_731_985;
    let mut reply = Vec::new();
    answer(&store(), &context, &cookie_query(&0x2464_c4ab_cf10_c957_u64.to_be_bytes()), &mut reply);
    let expected = 0x2464_c4ab_cf10_c957_0100_0000_5cf7_9f11_u128.to_be_bytes();
    let cookie = wire(&cookie_of(&reply).expect("a cookie"));
    assert_eq!(cookie[..16], expected);
    assert_eq!(cookie[16..], 0x1f81_30c3_eee2_9480_u64.to_be_bytes());
}

#[test]
fn cookies_of_impossible_length_are_format_errors() {
    for length in [0, 7, 9, 15, 41] {
        let reply = reply_to(&store(), Transport::Udp, &cookie_query(&vec![1; length])).expect("a reply");
        assert_eq!(show(&reply), "FORMERR", "{length}");
    }
    for length in [8, 16, 24, 40] {
        let reply = reply_to(&store(), Transport::Udp, &cookie_query(&vec![1; length])).expect("a reply");
        assert!(show(&reply).starts_with("NOERROR"), "{length}");
    }
}

#[test]
fn a_query_for_a_cookie_alone_gets_it() {
    let mut message = vec![0x12, 0x34, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    message.extend_from_slice(&[0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 12, 0, 10, 0, 8]);
    message.extend_from_slice(b"12345678");
    let reply = reply_to(&store(), Transport::Udp, &message).expect("a reply");
    assert_eq!(show(&reply), "NOERROR");
    assert!(cookie_of(&reply).expect("a cookie").server().is_some());
}

// --- acme, store ------------------------------------------------------------------------------------------------

#[test]
fn without_the_leader_challenges_alone_are_left_to_other_servers() {
    let policy = policy();
    let mut context = context(&policy, Transport::Tcp);
    context.leader_contact = false;
    let ask = |name: &str, kind| {
        let mut reply = Vec::new();
        answer(&store(), &context, &query(name, kind, None), &mut reply);
        show(&reply).lines().next().map(str::to_owned).expect("a line")
    };
    assert_eq!(ask("_acme-challenge.app.z.test.", Rtype::TXT), "SERVFAIL");
    assert_eq!(ask("_ACME-Challenge.nope.z.test.", Rtype::TXT), "SERVFAIL");
    assert_eq!(ask("_acme-challenge.else.test.", Rtype::TXT), "REFUSED");
    assert_eq!(ask("app.z.test.", Rtype::A), "NOERROR aa");
    assert_eq!(ask("app.z.test.", Rtype::CAA), "NOERROR aa");
}

#[test]
fn zones_within_zones_are_refused() {
    let mut overlapping = plan(1);
    let mut inner = overlapping.zones[0].clone();
    inner.apex = host("deep.inner.y.test");
    overlapping.zones.push(inner);
    assert!(matches!(
        Store::build(at(1), &overlapping, &Signers::new()),
        Err(DnsError::Overlap { inner, outer }) if inner == host("deep.inner.y.test") && outer == host("y.test")
    ));
    let mut twice = plan(1);
    twice.zones.push(twice.zones[0].clone());
    assert!(matches!(Store::build(at(1), &twice, &Signers::new()), Err(DnsError::Overlap { .. })));
}

#[test]
fn sets_that_no_message_carries_are_servfail() {
    let mut big = plan(1);
    let text: Vec<RecordData> = (0..20_u8).map(|n| RecordData::Txt(vec![n; 4096])).collect();
    let sets = big.zones[0].sets.entry(host("big.z.test")).or_default();
    sets.insert(RecordKind::Txt, PlannedSet { ttl: 1, data: text });
    let store = Store::build(at(1), &big, &Signers::new()).expect("a plan");
    for transport in [Transport::Udp, Transport::Tcp] {
        let reply =
            reply_to(&store, transport, &query("big.z.test.", Rtype::TXT, Some(1232))).expect("a reply");
        assert_eq!(show(&reply), "SERVFAIL");
    }
}

#[test]
fn the_longest_names_are_served() {
    let label = "l".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}.z.test", "m".repeat(54));
    assert_eq!(longest.len(), 253);
    let mut plan = plan(1);
    let address = PlannedSet { ttl: 30, data: vec![zone::a("192.0.2.1")] };
    let sets = plan.zones[0].sets.entry(longest.parse::<HostName>().expect("a name")).or_default();
    sets.insert(RecordKind::A, address);
    let store = Store::build(at(1), &plan, &Signers::new()).expect("a plan");
    let reply =
        reply_to(&store, Transport::Udp, &query(&format!("{longest}."), Rtype::A, None)).expect("a reply");
    assert!(show(&reply).ends_with("A 192.0.2.1"));
    let sibling = format!("x{}.", &longest[1..]);
    let reply = reply_to(&store, Transport::Udp, &query(&sibling, Rtype::A, None)).expect("a reply");
    assert!(show(&reply).starts_with("NXDOMAIN aa\nns z.test. 30 SOA"));
}

#[test]
fn clients_are_told_apart_by_the_address_in_the_cookie() {
    let policy = policy();
    let (reply, _) = with_cookie(b"12345678", NOW, &policy);
    let full = wire(&cookie_of(&reply).expect("a cookie"));
    let mut context = context(&policy, Transport::Udp);
    for (client, expected) in [(CLIENT, true), ("192.0.2.201", false), ("2001:db8::1", false)] {
        context.client = client.parse().expect("an address");
        let mut reply = Vec::new();
        let outcome = answer(&store(), &context, &cookie_query(&full), &mut reply);
        assert!(matches!(outcome, Outcome::Answered(a) if a.cookie_valid == expected), "{client}");
    }
}
