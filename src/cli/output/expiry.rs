//! Messages about tokens and certificates that expire soon.

use headwater::fsx;
use headwater::mirror::{CredentialKind, Expiry};
use headwater::monitor::{Event, Monitor as _};
use headwater::push::Report;

use crate::cli::output::format::{format_time, pluralize};
use crate::cli::output::next_steps::print_hints;
use crate::cli::output::progress::Progress;

const DAY_SECONDS: u64 = 24 * 60 * 60;

/// Describes which credential expires and when, for example `the token expires on 2026-12-05 (in 6
/// days)`.
pub(crate) fn describe(expiry: Expiry, now: u64) -> String {
    format!("the {} {}", credential_name(expiry.kind), expiry_text(expiry, now))
}

/// The name of the credential.
pub(crate) const fn credential_name(what: CredentialKind) -> &'static str {
    match what {
        CredentialKind::Token => "token",
        CredentialKind::Certificate => "certificate",
    }
}

/// When the credential expires, for example `expires on 2026-12-05 (in 6 days)`.
pub(crate) fn expiry_text(expiry: Expiry, now: u64) -> String {
    let moment = format_time(expiry.time);
    let date = moment.split('T').next().unwrap_or_default();
    match expiry.time.checked_sub(now).map(|left| left / DAY_SECONDS) {
        None => format!("expired on {date}"),
        Some(0) => format!("expires on {date} (in less than a day)"),
        Some(days) => format!("expires on {date} (in {})", pluralize(days, "day", "days")),
    }
}

/// The hint for the credential.
pub(crate) const fn hint(what: CredentialKind) -> &'static str {
    match what {
        CredentialKind::Token => {
            "create a new token with `headwater token new --site NAME --allow push`, and add its \
             table to the receiver's serve.toml"
        }
        CredentialKind::Certificate => {
            "renew the certificate of the receiver, or of the proxy in front of it"
        }
    }
}

/// Warns about tokens and certificates that expire soon on the mirrors of a push, with one hint per
/// kind.
pub(crate) fn warn_of_expiries(report: &Report, progress: &Progress) {
    let now = fsx::unix_seconds();
    let mut hints: Vec<&str> = Vec::new();
    for mirror in &report.mirrors {
        for expiry in mirror.expiries.expiring_soon(now) {
            let message = format!("{}: {}", mirror.mirror, describe(expiry, now));
            progress.event(Event::Warned { message });
            hints.push(hint(expiry.kind));
        }
    }
    // `print_hints` drops only consecutive equal hints.
    hints.sort_unstable();
    // A closed stderr does not end the command.
    print_hints(hints).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_text_counts_whole_days() {
        let day = |number: u64| 1_796_428_800 + number * DAY_SECONDS;
        let words = |time, now| describe(Expiry { kind: CredentialKind::Token, time }, now);
        assert_eq!(words(day(6) + 7, day(0)), "the token expires on 2026-12-11 (in 6 days)");
        assert_eq!(words(day(1), day(0)), "the token expires on 2026-12-06 (in 1 day)");
        assert_eq!(
            words(day(1) - 1, day(0)),
            "the token expires on 2026-12-05 (in less than a day)"
        );
        assert_eq!(words(day(0), day(1)), "the token expired on 2026-12-05");
    }
}
