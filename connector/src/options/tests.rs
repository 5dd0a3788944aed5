//! Arguments, environment and files, and what comes of them.

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::*;

fn resolve(arguments: &[&str]) -> Result<Options, OptionsError> {
    let arguments = ["pangolin-connector"].iter().chain(arguments);
    Arguments::try_parse_from(arguments).unwrap().resolve()
}

#[test]
fn the_names_of_newt_are_understood() {
    let arguments =
        ["--id", "k3v", "--secret", "s3cret", "--endpoint", "https://a.example,https://b.example:8443"];
    let options = resolve(&arguments).unwrap();
    assert_eq!((options.id.as_str(), options.secret.expose()), ("k3v", "s3cret"));
    assert_eq!(options.doors[1].to_string(), "https://b.example:8443");
    assert_eq!((options.tunnels, options.mtu), (3, 1280));
    assert_eq!(options.backend, SiteBackend::Auto(OWN_PROGRAM.into()));
    assert_eq!(format!("{:?}", options.secret), "Secret(…)");
}

#[test]
fn the_file_fills_in_what_arguments_leave_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("secret"), "from the file\n").unwrap();
    fs::set_permissions(path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let text = format!(
        "id = 'file'\nsecret_file = '{}'\nendpoint = ['a.example', 'b.example']\ntunnels = 2\nbackend = 'in-process'\nkey_file = '{}'\n",
        path("secret"),
        path("key")
    );
    fs::write(path("config"), text).unwrap();
    let arguments = ["--config-file", &path("config"), "--id", "argument"];
    let options = resolve(&arguments).unwrap();
    assert_eq!((options.id.as_str(), options.secret.expose()), ("argument", "from the file"));
    assert_eq!((options.doors.len(), options.tunnels), (2, 2));
    assert_eq!(options.backend, SiteBackend::InProcess);
    assert_eq!(resolve(&arguments).unwrap().key.public(), options.key.public());
}

#[test]
fn a_provisioning_key_is_exchanged_once_and_its_credentials_are_used_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("credentials").display().to_string();
    let parse = |arguments: &[&str]| {
        Arguments::try_parse_from(["pangolin-connector"].iter().chain(arguments)).unwrap()
    };
    let all =
        ["--provisioning-key", "spk.secret", "--credentials-file", &kept, "--endpoint", "https://a.example"];
    assert!(parse(&all).provisioning().unwrap().is_some());
    assert!(parse(&[&all[..], &["--id", "k3v"]].concat()).provisioning().unwrap().is_none());
    let error = parse(&[&all[..2], &all[4..]].concat()).provisioning().err().unwrap().to_string();
    assert!(error.contains("--credentials-file"), "{error}");
    fs::write(&kept, r#"{"id":"k3v","secret":"s3cret"}"#).unwrap();
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(parse(&all).provisioning().unwrap().is_none());
    let options = parse(&all).resolve().unwrap();
    assert_eq!((options.id.as_str(), options.secret.expose()), ("k3v", "s3cret"));
    fs::write(&kept, "{}").unwrap();
    assert!(parse(&all).provisioning().is_err());
}

#[test]
fn what_is_missing_or_wrong_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config").display().to_string();
    fs::write(&config, "secrets = 'x'").unwrap();
    let all = ["--id", "k3v", "--secret", "s", "--endpoint", "a.example"];
    let cases: [(&[&str], &str); 6] = [
        (&all[..4], "endpoint is missing"),
        (&all[2..], "id is missing"),
        (&["--id", "k3v", "--endpoint", "a.example"], "--secret-file"),
        (&["--id", "k3v", "--secret", "s", "--endpoint", "ftp://a"], "not of the form"),
        (&["--config-file", &config], "unknown field"),
        (&["--id", "k", "--secret", "s", "--endpoint", "a", "--tunnels", "0"], "1 to 16"),
    ];
    for (arguments, expected) in cases {
        let error = resolve(arguments).err().expect(expected).to_string();
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[test]
fn what_a_newt_is_told_is_taken_and_said_to_mean_nothing_here() {
    let parse = |more: &[&str]| {
        let all = ["pangolin-connector", "--id", "k", "--secret", "s", "--endpoint", "a"];
        Arguments::try_parse_from(all.iter().chain(more)).unwrap_or_else(|error| panic!("{more:?}: {error}"))
    };
    let nothing = |_: &str| None;
    let cases: [(&[&str], &[&str]); 11] = [
        (&["--accept-clients"], &["--accept-clients ("]),
        (&["--accept-clients=false"], &[]),
        (&["--native", "doctor"], &["--native ("]),
        (&["--no-cloud=true", "--native-main"], &["--no-cloud (", "--native-main ("]),
        (&["--docker-socket", "/var/run/docker.sock"], &["--docker-socket ("]),
        (&["--docker-socket", ""], &[]),
        (&["--updown", "/bin/up"], &["--updown (no scripts"]),
        (
            &["--tls-client-cert", "c.p12", "--tls-client-key=k"],
            &["--tls-client-key (", "--tls-client-cert ("],
        ),
        (&["--ping-interval", "3s", "--ping-timeout=5s"], &["--ping-interval (", "--ping-timeout ("]),
        (
            &["--dns", "9.9.9.9", "--port", "34534", "--interface", "newt"],
            &["--dns (", "--interface (", "--port ("],
        ),
        (
            &["--blueprint-file", "b.yaml", "--metrics", "--rm"],
            &["--blueprint-file (", "--metrics (", "--rm ("],
        ),
    ];
    for (arguments, expected) in cases {
        let told = parse(arguments).without_meaning(nothing).unwrap();
        assert_eq!(told.len(), expected.len(), "{arguments:?}: {told:?}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.starts_with(expected), "{arguments:?}: {told:?}");
        }
        assert_eq!(parse(arguments).resolve().unwrap().id, "k", "{arguments:?}");
    }
    let environment = |name: &str| match name {
        "ACCEPT_CLIENTS" => Some("true".to_owned()),
        "NO_CLOUD" => Some("false".to_owned()),
        "DNS" => Some("9.9.9.9".to_owned()),
        "AD_KEY" => Some("not to be shown".to_owned()),
        _ => None,
    };
    let told = parse(&[]).without_meaning(environment).unwrap().join(", ");
    assert!(
        told.starts_with("DNS (") && told.contains("ACCEPT_CLIENTS (") && told.contains("AD_KEY ("),
        "{told}"
    );
    assert!(!told.contains("NO_CLOUD") && !told.contains("shown"), "{told}");
}

#[test]
fn the_file_of_a_newt_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("site.json").display().to_string();
    let parse = |text: &str, more: &[&str]| {
        fs::write(&path, text).unwrap();
        let all = ["pangolin-connector", "--config-file", &path];
        Arguments::try_parse_from(all.iter().chain(more)).unwrap()
    };
    let whole = r#"{
        "endpoint": "https://a.example", "id": "file", "secret": "s3cret", "name": "edge",
        "dns": "9.9.9.9", "loglevel": "DEBUG", "mtu": 1380, "port": 34534, "pingInterval": "15s",
        "disableClients": false, "noCloud": true, "healthFile": "/tmp/healthy",
        "dockerSocket": "", "tlsClientCa": [], "updownScript": "/bin/up", "tunnels": 2
    }"#;
    let arguments = parse(whole, &[]);
    let told = arguments.without_meaning(|_| None).unwrap();
    let mut names: Vec<&str> = told.iter().filter_map(|told| told.split_whitespace().next()).collect();
    names.sort_unstable();
    assert_eq!(names, ["dns", "noCloud", "pingInterval", "port", "updownScript"]);
    assert_eq!(arguments.log_level().unwrap(), "debug");
    let options = arguments.resolve().unwrap();
    assert_eq!((options.id.as_str(), options.secret.expose()), ("file", "s3cret"));
    assert_eq!((options.mtu, options.tunnels), (1380, 2));
    assert_eq!(options.health_file, Some("/tmp/healthy".into()));
    assert_eq!(options.doors[0].to_string(), "https://a.example");
    let options = parse(whole, &["--id", "argument", "--mtu", "1400"]).resolve().unwrap();
    assert_eq!((options.id.as_str(), options.mtu), ("argument", 1400));
    assert_eq!(
        parse(r#"{"mtu": "1300"}"#, &["--id", "k", "--secret", "s", "--endpoint", "a"])
            .resolve()
            .unwrap()
            .mtu,
        1300
    );

    let provisioned =
        r#"{"endpoint": "https://a.example", "id": "", "provisioningKey": "spk.secret", "name": "edge"}"#;
    let provisioning = parse(provisioned, &[]).provisioning().unwrap().unwrap();
    assert_eq!(provisioning.name.as_deref(), Some("edge"));
    assert_eq!(provisioning.file, folder.path().join("site.json.credentials"));
    for (text, expected) in [
        (r#"{"idd": "x"}"#, "unknown field `idd`"),
        (r#"{"id": "x""#, "EOF"),
        (r#"{"tunnels": "many"}"#, "invalid type"),
    ] {
        let error = parse(text, &[]).resolve().err().expect(expected).to_string();
        assert!(error.contains(expected) && error.contains("site.json"), "{error}");
    }
}

#[test]
fn further_names_of_the_environment_fill_in_what_is_not_said() {
    let environment = |name: &str| match name {
        "SITE_ID" => Some("site".to_owned()),
        "SITE_SECRET" => Some("of the site".to_owned()),
        "NEWT_PROVISIONING_KEY" => Some(String::new()),
        "SITE_PROVISIONING_KEY" => Some("spk.secret".to_owned()),
        "NEWT_NAME" => Some("edge".to_owned()),
        "TLS_CLIENT_CAS" => Some("/a.pem, /b.pem".to_owned()),
        _ => None,
    };
    let parse = |arguments: &[&str]| {
        let all = ["pangolin-connector"].iter().chain(arguments);
        Arguments::try_parse_from(all).unwrap().with_other_names(environment).site
    };
    let site = parse(&[]);
    assert_eq!((site.id.as_deref(), site.secret), (Some("site"), Some(Secret("of the site".into()))));
    assert_eq!(site.provisioning_key, Some(Secret("spk.secret".into())));
    assert_eq!(site.site_name.as_deref(), Some("edge"));
    assert_eq!(site.tls_client_ca, [PathBuf::from("/a.pem"), PathBuf::from("/b.pem")]);
    let site = parse(&["--id", "k", "--secret-file", "/s", "--name", "lab", "--tls-client-ca", "/c.pem"]);
    assert_eq!((site.id.as_deref(), site.secret), (Some("k"), None));
    assert_eq!(site.site_name.as_deref(), Some("lab"));
    assert_eq!(site.tls_client_ca, [PathBuf::from("/c.pem")]);
}

#[test]
fn certificates_are_verified_whatever_a_newt_was_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("site.json").display().to_string();
    fs::write(&file, r#"{"skipTlsVerify": true}"#).unwrap();
    let all = ["--id", "k3v", "--secret", "s", "--endpoint", "a.example"];
    let cases: [(&[&str], bool); 5] = [
        (&["--skip-tls-verify"], true),
        (&["--skip-tls-verify=true"], true),
        (&["--skip-tls-verify=false"], false),
        (&["--config-file", &file], true),
        (&["--config-file", &file, "--skip-tls-verify=false"], false),
    ];
    for (more, refused) in cases {
        let resolved = resolve(&[&all[..], more].concat());
        assert_eq!(resolved.is_err(), refused, "{more:?}");
        if let Err(error) = resolved {
            assert!(error.to_string().contains("--ca-file"), "{error}");
        }
    }
    let none = folder.path().join("none").display().to_string();
    let key =
        ["--provisioning-key", "spk.s", "--credentials-file", &none, "--endpoint", "a", "--skip-tls-verify"];
    let arguments = Arguments::try_parse_from(["pangolin-connector"].iter().chain(&key)).unwrap();
    assert!(matches!(arguments.provisioning(), Err(OptionsError::Unverified)));
}

#[test]
fn levels_of_a_newt_are_understood() {
    let level = |level: &str| {
        let arguments = Arguments::try_parse_from(["pangolin-connector", "--log-level", level]).unwrap();
        arguments.log_level().unwrap()
    };
    assert_eq!((level("WARN").as_str(), level("FATAL").as_str()), ("warn", "error"));
}
