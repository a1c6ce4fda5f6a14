//! The resolver against signed zones, and against servers that lie.

mod support;
mod zones;
