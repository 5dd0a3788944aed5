//! `pangolinctl cert`: certificates and the issuers that they come from.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use pangolin_core::{Slug, issuance::StandingKind};
use pangolin_wire::{
    Certificate, CertificateIssuer, CertificateList, ImportCertificate, IssuerList, IssuerRates,
    RevokeCertificate, SetIssuer,
};

use crate::{
    failure::Failure,
    names,
    print::{self, cell},
    session::{Session, read},
    why,
};

/// Directories that have a short name.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
const LETS_ENCRYPT_STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List the certificates, those that are wanted and missing among them, and how each stands
    List,
    /// Show a certificate
    Show {
        /// Id, or a name that it is good for
        certificate: String,
    },
    /// Get a new generation now
    Renew {
        /// Id, or a name that it is good for
        certificate: String,
    },
    /// Serve a certificate of your own; importing one for the same names again replaces it
    Import {
        /// File with the chain, leaf first, PEM
        #[arg(long, value_name = "FILE")]
        chain: PathBuf,
        /// File with the private key, PKCS #8 in PEM
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Have the issuer declare a certificate void, and get a new one
    Revoke {
        /// Id, or a name that it is good for
        certificate: String,
        /// Why
        #[arg(long, value_enum, default_value_t = Reason::Unspecified)]
        reason: Reason,
    },
    /// Remove a certificate that was imported
    Delete {
        /// Id, or a name that it is good for
        certificate: String,
    },
    /// Say why the certificate for a name is as it is, or missing: the decisions behind it
    Why {
        /// The name
        name: String,
    },
    /// Public authorities that certificates are got from by ACME
    #[command(subcommand)]
    Issuer(IssuerVerb),
}

/// Reasons for a revocation (RFC 5280 §5.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Reason {
    Unspecified = 0,
    KeyCompromise = 1,
    AffiliationChanged = 3,
    Superseded = 4,
    CessationOfOperation = 5,
}

#[derive(Debug, Subcommand)]
pub(crate) enum IssuerVerb {
    /// List the issuers in the order in which they are used; without any, the internal issuer makes all certificates
    List,
    /// Add an issuer, or change one
    Set(SetArgs),
    /// Remove an issuer; its certificates stay until they have to be renewed
    Delete {
        /// Its name
        name: Slug,
    },
    /// Exchange the key of the account at an issuer; the account and its certificates stay
    Rollover {
        /// Its name
        name: Slug,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pangolinctl cert issuer set letsencrypt-staging --contact ops@example.com
  pangolinctl cert issuer set letsencrypt --contact ops@example.com --first
  pangolinctl cert issuer set zerossl --directory https://acme.zerossl.com/v2/DV90 \\
      --external-account KEY_ID --external-key-file key
  pangolinctl cert issuer set lab --directory https://ca.lab:9000/acme/acme/directory --roots ca.pem")]
pub(crate) struct SetArgs {
    /// Its name; letsencrypt and letsencrypt-staging are known and need no directory
    name: Slug,
    /// Address of its ACME directory
    #[arg(long, value_name = "URL")]
    directory: Option<String>,
    /// File with certificates to trust for its HTTPS besides the system's, PEM
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// E-mail address that it may write to; may be given several times
    #[arg(long = "contact", value_name = "ADDRESS")]
    contacts: Vec<String>,
    /// Profile of its certificates, where it offers several
    #[arg(long)]
    profile: Option<String>,
    /// Name of the account that it gave by other means (external account binding)
    #[arg(long, value_name = "KEY_ID")]
    external_account: Option<String>,
    /// File with the key of that account, base64url
    #[arg(long, value_name = "FILE")]
    external_key_file: Option<PathBuf>,
    /// Its name in CAA records, if it does not tell by itself; may be given several times
    #[arg(long, value_name = "DOMAIN")]
    caa: Vec<String>,
    /// How much is asked of it [default: what is known of Let's Encrypt, unlimited for others]
    #[arg(long, value_enum)]
    rates: Option<RatesArg>,
    /// Use it before all others
    #[arg(long)]
    first: bool,
    /// Use an account of its own there, told apart by this name, where several issuers have the same directory
    #[arg(long, value_name = "NAME")]
    account: Option<Slug>,
}

/// How much is asked of an issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RatesArg {
    /// As much as there is to ask.
    Unlimited,
    /// Below the limits of Let's Encrypt.
    Letsencrypt,
    /// Below those of its staging environment.
    LetsencryptStaging,
}

pub(crate) async fn run(session: &Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::List => {
            session.show(&session.get("/certificates").await?, |list: CertificateList| table(&list))
        }
        Verb::Show { certificate } => {
            let id = names::certificate(session, &certificate).await?;
            session.show(&session.get(&format!("/certificate/{id}")).await?, |one: Certificate| shown(&one))
        }
        Verb::Renew { certificate } => {
            let id = names::certificate(session, &certificate).await?;
            session.done(&session.post(&format!("/certificate/{id}/renew"), &serde_json::json!({})).await?)
        }
        Verb::Import { chain, key } => {
            let request = ImportCertificate { chain: text(&chain)?, key: text(&key)? };
            session.done(&session.put("/certificate", &request).await?)
        }
        Verb::Revoke { certificate, reason } => {
            let id = names::certificate(session, &certificate).await?;
            let request = RevokeCertificate { reason: reason as u8 };
            session.done(&session.post(&format!("/certificate/{id}/revoke"), &request).await?)
        }
        Verb::Delete { certificate } => {
            let id = names::certificate(session, &certificate).await?;
            session.delete(&format!("/certificate/{id}")).await
        }
        Verb::Why { name } => why::certificate(session, &name).await,
        Verb::Issuer(verb) => issuer(session, verb).await,
    }
}

async fn issuer(session: &Session, verb: IssuerVerb) -> Result<(), Failure> {
    match verb {
        IssuerVerb::List => session.show(&session.get("/certificate-issuers").await?, |list: IssuerList| {
            let rows = list.issuers.iter().map(|issuer: &CertificateIssuer| {
                [
                    cell(&issuer.name),
                    cell(&issuer.directory),
                    cell(print::or_dash(issuer.profile.as_ref())),
                    cell(account(issuer)),
                    cell(print::or_dash(issuer.held_until.map(print::moment))),
                ]
            });
            print::table(["NAME", "DIRECTORY", "PROFILE", "ACCOUNT", "LEFT ALONE UNTIL"], rows)
        }),
        IssuerVerb::Set(args) => session.done(&session.put("/certificate-issuer", &request(args)?).await?),
        IssuerVerb::Delete { name } => session.delete(&format!("/certificate-issuer/{name}")).await,
        IssuerVerb::Rollover { name } => {
            let path = format!("/certificate-issuer/{name}/account-key");
            session.done(&session.post(&path, &serde_json::json!({})).await?)
        }
    }
}

fn account(issuer: &CertificateIssuer) -> String {
    let exchange = if issuer.key_exchange { " (its key is being exchanged)" } else { "" };
    format!("{}{exchange}", print::or_dash(issuer.account.as_ref()))
}

fn request(args: SetArgs) -> Result<SetIssuer, Failure> {
    let (known, rates) = match args.name.as_str() {
        "letsencrypt" => (Some(LETS_ENCRYPT), IssuerRates::Letsencrypt),
        "letsencrypt-staging" => (Some(LETS_ENCRYPT_STAGING), IssuerRates::LetsencryptStaging),
        _ => (None, IssuerRates::Unlimited),
    };
    let directory = args.directory.or_else(|| known.map(str::to_owned)).ok_or_else(|| {
        Failure::usage(format!("where is the directory of {}?", args.name))
            .hint("Give it with --directory URL.")
    })?;
    let directory = match &args.account {
        Some(_) if directory.contains('#') => {
            return Err(Failure::usage(
                "the address of the directory names an account already, behind its #",
            ));
        }
        Some(account) => format!("{directory}#{account}"),
        None => directory,
    };
    Ok(SetIssuer {
        name: args.name,
        directory,
        roots: args.roots.as_ref().map(text).transpose()?,
        contacts: args.contacts,
        profile: args.profile,
        external_account: args.external_account,
        external_key: args.external_key_file.as_ref().map(text).transpose()?.map(|key| key.trim().to_owned()),
        caa: args.caa,
        rates: match args.rates {
            None => rates,
            Some(RatesArg::Unlimited) => IssuerRates::Unlimited,
            Some(RatesArg::Letsencrypt) => IssuerRates::Letsencrypt,
            Some(RatesArg::LetsencryptStaging) => IssuerRates::LetsencryptStaging,
        },
        first: args.first,
    })
}

fn text(file: &PathBuf) -> Result<String, Failure> {
    String::from_utf8(read(file)?).map_err(|_| Failure::usage(format!("{} is not text", file.display())))
}

fn table(list: &CertificateList) -> String {
    let rows = list.certificates.iter().map(|certificate| {
        let well = matches!(certificate.state, StandingKind::Valid | StandingKind::Renewing);
        [
            cell(print::or_dash(certificate.certificate_id)),
            cell(print::list(&certificate.names)),
            print::state(print::word(certificate.state), well),
            cell(print::or_dash(certificate.issuer.as_ref())),
            cell(print::or_dash(certificate.not_after.map(print::moment))),
            cell(&certificate.reason),
        ]
    });
    print::table(["ID", "NAMES", "STATE", "ISSUER", "UNTIL", "REASON"], rows)
}

fn shown(certificate: &Certificate) -> String {
    let order = certificate.order.as_ref().map(|order| {
        let phase = print::word(order.phase);
        format!(
            "{phase} at {} since {}, generation {}",
            order.issuer,
            print::moment(order.since),
            order.generation
        )
    });
    print::pairs([
        ("certificate", print::or_dash(certificate.certificate_id)),
        ("names", print::list(&certificate.names)),
        ("state", print::word(certificate.state)),
        ("reason", certificate.reason.clone()),
        ("issuer", print::or_dash(certificate.issuer.as_ref())),
        ("generation", print::or_dash(certificate.generation)),
        ("good from", print::or_dash(certificate.not_before.map(print::moment))),
        ("good until", print::or_dash(certificate.not_after.map(print::moment))),
        ("renewal", print::or_dash(certificate.renew_at.map(print::moment))),
        ("order", print::or_dash(order)),
        ("failed attempts", certificate.failures.to_string()),
        ("orders given up", certificate.surplus_orders.to_string()),
    ])
}
