//! onfly
