//! HTTP: routes, bodies, responses, tokens and the log.

pub(super) mod auth;
pub(super) mod error;
pub(super) mod handler;
pub(super) mod handler_result;
pub(super) mod log;
pub(super) mod log_limit;
pub(super) mod object_parts;
pub(super) mod request_body;
pub(super) mod response;
pub(super) mod signature_chunks;
