//! `pangolin-connector`: arguments, log, signals.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _, parser::ValueSource};
use pangolin_connector::{
    doctor,
    options::{Arguments, LogFormat, Options, OptionsError, Verb},
    status,
};
use pangolin_tunnel::site::serve_namespace;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<()> {
    let matches = Arguments::command().get_matches();
    let environment = |name: &str| std::env::var(name).ok();
    let arguments = Arguments::from_arg_matches(&matches)
        .unwrap_or_else(|error| error.exit())
        .with_other_names(environment);
    if let Some(Verb::Status { json }) = arguments.verb {
        return say_status(&arguments, json);
    }
    if arguments.verb == Some(Verb::ServeNamespace) {
        // Before there are threads.
        return Ok(serve_namespace()?);
    }
    log(&arguments)?;
    if matches.value_source("secret") == Some(ValueSource::CommandLine) {
        tracing::warn!("other users of this host can read --secret; rather use --secret-file or NEWT_SECRET");
    }
    if matches.value_source("provisioning_key") == Some(ValueSource::CommandLine) {
        tracing::warn!("other users of this host can read --provisioning-key; rather use PROVISIONING_KEY");
    }
    let without_meaning = arguments.without_meaning(environment)?;
    if !without_meaning.is_empty() {
        tracing::info!("options of a Newt that mean nothing here: {}", without_meaning.join(", "));
    }
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let verb = arguments.verb;
    if verb.is_none()
        && let Some(provisioning) = arguments.provisioning()?
    {
        provisioning.run().await?;
    }
    let options = arguments.resolve()?;
    if verb == Some(Verb::Doctor) {
        return examine(&options).await;
    }
    for door in options.doors.iter().filter(|door| !door.endpoint.tls) {
        tracing::warn!(%door, "the secret goes over the network in the clear; rather use https");
    }
    let shutdown = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let running = pangolin_connector::run(options, shutdown.clone());
    let mut running = std::pin::pin!(running);
    tokio::select! {
        ended = &mut running => return Ok(ended?),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("shutting down");
    shutdown.cancel();
    Ok(running.await?)
}

fn say_status(arguments: &Arguments, json: bool) -> anyhow::Result<()> {
    let path = arguments.status_file()?.ok_or(OptionsError::NoStatusFile)?;
    let status = status::read(&path)?;
    if json {
        say(&serde_json::to_string(&status)?);
    } else {
        status::lines(&status).iter().for_each(|line| say(line));
    }
    Ok(())
}

async fn examine(options: &Options) -> anyhow::Result<()> {
    let findings = doctor::examine(options, options.status_file.as_deref()).await;
    for finding in &findings {
        say(&format!("{}  {}", if finding.ok { "ok  " } else { "FAIL" }, finding.text));
    }
    let bad = findings.iter().filter(|finding| !finding.ok).count();
    anyhow::ensure!(bad == 0, "{bad} of {} things are not as they should be", findings.len());
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the answer to whoever asked")]
fn say(line: &str) {
    println!("{line}");
}

fn log(arguments: &Arguments) -> anyhow::Result<()> {
    let level = arguments.log_level()?;
    // The WireGuard library tells of every forced handshake; what the user asks for stands behind and so above it.
    let filter = EnvFilter::try_new(format!("gotatun=warn,{level}"))
        .with_context(|| format!("--log-level {level:?}"))?;
    let terminal = std::io::stderr().is_terminal();
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    match arguments.log_format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}
