//! Options of a Newt that mean nothing here. They are taken, so that a command line, an environment or a file that was
//! made for one does, and whoever reads the log is told.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use serde_json::Value;

const BACKEND: &str = "--backend says what carries the packets";
const BLUEPRINTS: &str = "publish with pangolinctl or the API";
const CHOICE: &str = "the cluster offers the nodes";
const CLIENTS: &str = "private clients are not served";
const CLIENT_CERTIFICATES: &str = "nodes do not ask for a client certificate";
const CONTAINERS: &str = "containers are not looked for";
const DATAGRAMS: &str = "datagrams of a client are carried until there were none for 90 seconds";
const HEALTH_CHECKS: &str = "health checks do not verify certificates";
const KEYS: &str = "--key-file keeps the WireGuard key";
const PROBES: &str = "every tunnel is probed four times a second";
const RESOLVER: &str = "names are looked up by this host's resolver";
const SCRIPTS: &str = "no scripts are run";
const SHELLS: &str = "no shells are offered";
const STATUS: &str = "`status` and `doctor` tell how the connector is";

/// What a Newt may be told and this program has no use for.
struct Foreign {
    /// Names of the argument, without dashes; the first is also that in its file, in whatever spelling.
    flags: &'static [&'static str],
    /// Names in the environment.
    environment: &'static [&'static str],
    /// It takes no value, or one behind an equals sign.
    switch: bool,
    why: &'static str,
}

const fn value(
    flags: &'static [&'static str],
    environment: &'static [&'static str],
    why: &'static str,
) -> Foreign {
    Foreign { flags, environment, switch: false, why }
}

const fn switch(
    flags: &'static [&'static str],
    environment: &'static [&'static str],
    why: &'static str,
) -> Foreign {
    Foreign { flags, environment, switch: true, why }
}

/// As of Newt 1.13 and the documentation of its successor.
const FOREIGN: &[Foreign] = &[
    value(&["dns"], &["DNS"], RESOLVER),
    value(&["ping-interval"], &["PING_INTERVAL"], PROBES),
    value(&["ping-timeout"], &["PING_TIMEOUT"], PROBES),
    value(
        &["udp-proxy-idle-timeout"],
        &["NEWT_UDP_PROXY_IDLE_TIMEOUT", "SITE_UDP_PROXY_IDLE_TIMEOUT"],
        DATAGRAMS,
    ),
    value(&["docker-socket"], &["DOCKER_SOCKET"], CONTAINERS),
    switch(&["docker-enforce-network-validation"], &["DOCKER_ENFORCE_NETWORK_VALIDATION"], CONTAINERS),
    value(&["updown", "updown-script"], &["UPDOWN_SCRIPT"], SCRIPTS),
    value(&["blueprint-file"], &["BLUEPRINT_FILE"], BLUEPRINTS),
    value(&["provisioning-blueprint-file"], &["PROVISIONING_BLUEPRINT_FILE"], BLUEPRINTS),
    switch(&["no-cloud"], &["NO_CLOUD"], CHOICE),
    value(&["prefer-endpoint"], &[], CHOICE),
    switch(&["accept-clients"], &["ACCEPT_CLIENTS"], CLIENTS),
    switch(&["disable-clients"], &["DISABLE_CLIENTS"], CLIENTS),
    switch(&["disable-ssh"], &["DISABLE_SSH"], SHELLS),
    value(&["ad-pre-shared-key"], &["AD_KEY"], SHELLS),
    value(&["ad-principals-file"], &["AD_PRINCIPALS_FILE"], SHELLS),
    value(&["ad-ca-cert-path"], &["AD_CA_CERT_PATH"], SHELLS),
    switch(&["ad-generate-random-password"], &["AD_GENERATE_RANDOM_PASSWORD"], SHELLS),
    switch(&["metrics"], &["NEWT_METRICS_PROMETHEUS_ENABLED", "SITE_METRICS_PROMETHEUS_ENABLED"], STATUS),
    switch(&["otlp"], &["NEWT_METRICS_OTLP_ENABLED", "SITE_METRICS_OTLP_ENABLED"], STATUS),
    value(&["metrics-admin-addr"], &["NEWT_ADMIN_ADDR", "SITE_ADMIN_ADDR"], STATUS),
    switch(&["metrics-async-bytes"], &["NEWT_METRICS_ASYNC_BYTES", "SITE_METRICS_ASYNC_BYTES"], STATUS),
    switch(&["pprof"], &["NEWT_PPROF_ENABLED", "SITE_PPROF_ENABLED"], STATUS),
    value(&["region"], &["NEWT_REGION", "SITE_REGION"], STATUS),
    switch(&["show-config"], &[], STATUS),
    switch(&["enforce-hc-cert"], &["ENFORCE_HC_CERT"], HEALTH_CHECKS),
    value(&["tls-client-cert-file"], &["TLS_CLIENT_CERT"], CLIENT_CERTIFICATES),
    value(&["tls-client-key"], &["TLS_CLIENT_KEY"], CLIENT_CERTIFICATES),
    value(&["tls-client-cert"], &["TLS_CLIENT_CERT_PKCS12"], CLIENT_CERTIFICATES),
    value(&["interface"], &["INTERFACE"], BACKEND),
    value(&["interface-main"], &["INTERFACE_MAIN"], BACKEND),
    value(&["port"], &["PORT"], BACKEND),
    switch(&["native"], &["USE_NATIVE_INTERFACE"], BACKEND),
    switch(&["native-main"], &["USE_NATIVE_MAIN_INTERFACE"], BACKEND),
    switch(&["keep-interface"], &["KEEP_INTERFACE"], BACKEND),
    switch(&["rm"], &[], BACKEND),
    value(&["generateAndSaveKeyTo"], &["GENERATE_AND_SAVE_KEY_TO"], KEYS),
];

/// Those given as arguments.
#[derive(Debug)]
pub(super) struct NewtArguments(Vec<String>);

impl NewtArguments {
    pub(super) fn given(&self) -> impl Iterator<Item = String> {
        self.0.iter().cloned()
    }
}

impl Args for NewtArguments {
    fn augment_args(command: Command) -> Command {
        let all = FOREIGN.iter().flat_map(|foreign| foreign.flags.iter().map(move |flag| (foreign, *flag)));
        command.args(all.map(|(foreign, flag)| {
            let arg = Arg::new(flag).long(flag).hide(true).action(ArgAction::Append);
            match foreign.switch {
                true => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                false => arg,
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for NewtArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |flag: &str| {
            let mut values = matches.get_many::<String>(flag).into_iter().flatten();
            values.any(|value| says_something(value))
        };
        let all = FOREIGN.iter().flat_map(|foreign| foreign.flags.iter().map(move |flag| (foreign, *flag)));
        let given = all.filter(|(_, flag)| given(flag));
        Ok(Self(given.map(|(foreign, flag)| told(&format!("--{flag}"), foreign)).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Those given in the environment.
pub(super) fn in_environment(look: impl Fn(&str) -> Option<String>) -> impl Iterator<Item = String> {
    let all = FOREIGN.iter().flat_map(|foreign| foreign.environment.iter().map(move |name| (foreign, *name)));
    all.filter_map(move |(foreign, name)| {
        look(name).filter(|value| says_something(value)).map(|_| told(name, foreign))
    })
}

/// What to say of a field of a file; none = a Newt would not know it either.
pub(super) fn in_file(key: &str, value: &Value) -> Option<Option<String>> {
    let name = folded(key);
    let foreign = FOREIGN.iter().find(|foreign| foreign.flags.iter().any(|flag| folded(flag) == name))?;
    let says = !matches!(value, Value::Null | Value::Bool(false));
    Some(says.then(|| told(key, foreign)))
}

fn told(name: &str, foreign: &Foreign) -> String {
    format!("{name} ({})", foreign.why)
}

/// Whether a value of a switch, or of something that may be left empty, is more than the default.
pub(super) fn says_something(value: &str) -> bool {
    !matches!(value.trim().to_ascii_lowercase().as_str(), "" | "false" | "f" | "no" | "0")
}

/// A name without its spelling: `healthFile`, `health-file` and `HEALTH_FILE` are one.
pub(super) fn folded(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_')).map(|c| c.to_ascii_lowercase()).collect()
}
