//! Authorization: tokens, stored as hashes, that each grant a permission on some sites.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::StatusCode;

use crate::error_kind::ErrorKind;
use crate::protocol::{ErrorDetail, READ_ONLY_MESSAGE};
use crate::receiver::http::error::HttpError;
use crate::tree_path::Site;

const ID_DIGITS: usize = 8;
// Unlike a password, 32 random bytes cannot be guessed, so one fast hash without a salt is enough
// to store them.
const SECRET_DIGITS: usize = 64;

/// What a token permits.
// Ordered: `Grant::check` compares, and `Push` includes `Read`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// Read state, releases, manifests and objects, and verify them.
    Read,
    /// [`Permission::Read`], and everything that changes a mirror.
    Push,
}

impl Permission {
    /// The name of the permission in configurations.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Push => "push",
        }
    }
}

/// The string is not the name of a permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write `push` or `read`")]
pub struct ParsePermissionError;

impl FromStr for Permission {
    type Err = ParsePermissionError;

    fn from_str(text: &str) -> Result<Self, ParsePermissionError> {
        [Self::Read, Self::Push]
            .into_iter()
            .find(|right| right.name() == text)
            .ok_or(ParsePermissionError)
    }
}

/// The public name of a token: eight lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenId(Box<str>);

impl TokenId {
    /// Parses an id. Returns `None` if `text` is not a valid id.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        is_hex(text, ID_DIGITS).then(|| Self(text.into()))
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A token, `hw_<id>_<secret>`. Neither `Debug` nor an error shows the secret.
#[derive(Clone)]
pub struct Token {
    id: TokenId,
    secret: Box<str>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(hw_{}_…)", self.id)
    }
}

impl Token {
    /// Creates a token with a random id of 4 bytes and a random secret of 32 bytes.
    ///
    /// # Errors
    /// Fails if the system has no random source.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; ID_DIGITS / 2 + SECRET_DIGITS / 2];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let (id, secret) = digits.split_at(ID_DIGITS);
        Ok(Self { id: TokenId(id.into()), secret: secret.into() })
    }

    /// Parses a token. Returns `None` if `text` is not a valid token.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix("hw_")?.split_once('_')?;
        let id = TokenId::new(id)?;
        is_hex(secret, SECRET_DIGITS).then(|| Self { id, secret: secret.into() })
    }

    /// The public name of the token.
    #[must_use]
    pub const fn id(&self) -> &TokenId {
        &self.id
    }

    /// The hash of the secret, which a receiver stores instead of the token.
    #[must_use]
    pub fn hash(&self) -> blake3::Hash {
        blake3::hash(self.secret.as_bytes())
    }

    /// The whole token, including the secret.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("hw_{}_{}", self.id, self.secret)
    }
}

/// A token as a receiver stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// The public name of the token.
    pub id: TokenId,
    /// BLAKE3 hash of the secret.
    pub hash: blake3::Hash,
    /// The sites that the token is valid for.
    pub sites: Vec<Site>,
    /// What the token permits its bearer to do on these sites.
    pub allow: Permission,
    /// When the token expires, in seconds since 1970.
    pub expires: Option<u64>,
}

impl TokenRecord {
    fn has_expired(&self) -> bool {
        self.expires.is_some_and(|end| end <= now())
    }
}

/// How a receiver authorizes its clients.
#[derive(Debug, Clone)]
pub enum AuthPolicy {
    /// Every client that can connect may push. For loopback, or behind an authenticated channel.
    Open,
    /// Clients need one of these tokens.
    Tokens(Vec<TokenRecord>),
}

/// What a client may do on a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) permission: Permission,
    /// When the token expires, in seconds since 1970.
    pub(crate) expires: Option<u64>,
}

impl AuthPolicy {
    /// The sites that the bearer of `authorization` may use; `None` if the header contains no valid
    /// token.
    pub(crate) fn sites_of(&self, authorization: Option<&[u8]>) -> Option<&[Site]> {
        let Self::Tokens(records) = self else { return None };
        let record = bearer_record(records, authorization).ok()?;
        (!record.has_expired()).then_some(&record.sites)
    }

    /// Whether any client can have permission to push to `site`.
    pub(crate) fn allows_push(&self, site: Option<&Site>) -> bool {
        let is_for = |record: &TokenRecord| {
            record.allow == Permission::Push && site.is_some_and(|site| record.sites.contains(site))
        };
        match self {
            Self::Open => true,
            Self::Tokens(records) => records.iter().any(is_for),
        }
    }

    /// What the bearer of `authorization` may do on `site`. Sets `known` to the token's id, even if
    /// the token has expired or is for a different site.
    pub(crate) fn grant(
        &self,
        authorization: Option<&[u8]>,
        site: Option<&Site>,
        known: &mut Option<String>,
    ) -> Result<Grant, HttpError> {
        let records = match self {
            Self::Open => return Ok(Grant { permission: Permission::Push, expires: None }),
            Self::Tokens(records) => records,
        };
        let record = bearer_record(records, authorization)?;
        // Set only from here on: a request from a client without the secret must not be logged
        // under the token's name.
        *known = Some(record.id.to_string());
        if record.has_expired() {
            return Err(unauthorized("this token has expired").with_detail(ErrorDetail::Expired));
        }
        // A token lists its sites, so no token is valid for a site that has no name yet.
        if site.is_none_or(|site| !record.sites.contains(site)) {
            return Err(HttpError::new(
                StatusCode::FORBIDDEN,
                ErrorKind::Forbidden,
                "this token is for another site",
            ));
        }
        Ok(Grant { permission: record.allow, expires: record.expires })
    }
}

/// The record for the token in the `authorization` header.
fn bearer_record<'r>(
    records: &'r [TokenRecord],
    authorization: Option<&[u8]>,
) -> Result<&'r TokenRecord, HttpError> {
    let header = authorization
        .ok_or_else(|| unauthorized("a token is required, but the request has none"))?;
    let token = std::str::from_utf8(header).ok().and_then(bearer).and_then(Token::parse);
    let token = token.ok_or_else(|| {
        unauthorized(
            "the token of the request does not have the form that `headwater token new` prints",
        )
    })?;
    let record = records.iter().find(|record| record.id == *token.id());
    // An unknown id and a wrong secret take the same amount of work and return the same message, so
    // a client cannot find out which ids exist. Hashes compare in constant time.
    let hash = record.map_or_else(|| blake3::hash(b""), |record| record.hash);
    record.filter(|_| hash == token.hash()).ok_or_else(|| unauthorized("this token is unknown"))
}

fn unauthorized(why: &str) -> HttpError {
    HttpError::new(StatusCode::UNAUTHORIZED, ErrorKind::Unauthorized, why)
}

impl Grant {
    /// Returns an error if this grant does not include `needed`.
    pub(crate) fn check(&self, needed: Permission) -> Result<(), HttpError> {
        if self.permission >= needed {
            return Ok(());
        }
        Err(HttpError::new(StatusCode::FORBIDDEN, ErrorKind::Forbidden, READ_ONLY_MESSAGE))
    }
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn now() -> u64 {
    // A clock before 1970 is wrong. Every token with an expiry time then counts as expired, because
    // the opposite mistake would let an expired token in.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |passed| passed.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receiver::http::log::peer_text;

    fn site(name: &str) -> Site {
        Site::new(name).unwrap()
    }

    fn record(token: &Token, allow: Permission, expires: Option<u64>) -> TokenRecord {
        TokenRecord {
            id: token.id().clone(),
            hash: token.hash(),
            sites: vec![site("docs")],
            allow,
            expires,
        }
    }

    fn ask(access: &AuthPolicy, token: &str, name: &str) -> Result<Grant, (u16, String)> {
        let header = format!("Bearer {token}");
        let granted = access.grant(Some(header.as_bytes()), Some(&site(name)), &mut None);
        granted.map_err(|refused| (refused.status.as_u16(), refused.protocol_error.message))
    }

    #[test]
    fn tokens_round_trip_and_hide_their_secret() {
        let token = Token::random().unwrap();
        let text = token.reveal();
        assert_eq!(Token::parse(&text).unwrap().hash(), token.hash());
        assert!(!format!("{token:?}").contains(&text[12..]));
        let wrong = [
            &text[1..],
            &text[..75],
            &text.to_uppercase(),
            &format!("{text}0"),
            &text.replace('_', "-"),
            "",
        ];
        for wrong in wrong {
            assert!(Token::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn token_is_valid_for_its_site_permission_and_time() {
        let (push, read, old) =
            (Token::random().unwrap(), Token::random().unwrap(), Token::random().unwrap());
        let records = vec![
            record(&push, Permission::Push, Some(now() + 60)),
            record(&read, Permission::Read, None),
            record(&old, Permission::Push, Some(now())),
        ];
        let access = AuthPolicy::Tokens(records);
        assert_eq!(ask(&access, &push.reveal(), "docs").unwrap().permission, Permission::Push);
        let read = ask(&access, &read.reveal(), "docs").unwrap();
        assert!(read.check(Permission::Read).is_ok());
        assert_eq!(read.check(Permission::Push).unwrap_err().status, StatusCode::FORBIDDEN);
        assert_eq!(ask(&access, &push.reveal(), "other").unwrap_err().0, 403);
        let (status, message) = ask(&access, &old.reveal(), "docs").unwrap_err();
        assert!(status == 401 && message.contains("expired"), "{message}");
    }

    #[test]
    fn invalid_tokens_get_the_same_response() {
        let token = Token::random().unwrap();
        let access = AuthPolicy::Tokens(vec![record(&token, Permission::Push, None)]);
        let mut wrong = token.reveal();
        let last = if wrong.ends_with('0') { "1" } else { "0" };
        wrong.replace_range(wrong.len() - 1.., last);
        let unknown = Token::random().unwrap().reveal();
        assert_eq!(ask(&access, &wrong, "docs"), ask(&access, &unknown, "docs"));
        assert_eq!(ask(&access, &wrong, "docs").unwrap_err().0, 401);
        assert_eq!(ask(&access, "", "docs").unwrap_err().0, 401);
        let mut known = None;
        for header in [None, Some(&b"Basic eDp5"[..]), Some(format!("Bearer {wrong}").as_bytes())] {
            let refused = access.grant(header, Some(&site("docs")), &mut known).unwrap_err();
            assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
            // What is said of it can be logged: nothing in it looks like a token.
            assert_eq!(peer_text(&refused.protocol_error.message), refused.protocol_error.message);
        }
        assert_eq!(known, None, "who only knows an id is nobody");
    }

    #[test]
    fn refused_token_is_identified_by_its_id() {
        let (here, old) = (Token::random().unwrap(), Token::random().unwrap());
        let access = AuthPolicy::Tokens(vec![
            record(&here, Permission::Push, None),
            record(&old, Permission::Push, Some(1)),
        ]);
        for (token, name) in [(&here, "other"), (&old, "docs")] {
            let (header, mut known) = (format!("Bearer {}", token.reveal()), None);
            access.grant(Some(header.as_bytes()), Some(&site(name)), &mut known).unwrap_err();
            assert_eq!(known, Some(token.id().to_string()));
        }
    }
}
