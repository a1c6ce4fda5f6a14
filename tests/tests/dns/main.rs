//! The resolver against signed zones, and against servers that lie.

mod forward;
mod liar;
mod lies;
mod root;
mod services;
mod support;
mod zones;
