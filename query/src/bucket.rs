//! The bucket as a source of rows: what stores have put there, for the time that their nodes do not answer or have given
//! up their own copies of.
//!
//! What is there is learned from the manifests of the stores ([`poll`], [`catalog`]); listing the files would not tell
//! whether more were to come. Which rows come from where is fixed once for each query ([`cut`]), before any node is asked.
//! The files belong to nobody, so the query services deal them out among themselves ([`services`], [`scan`], [`worker`]).
//! Nothing is ever written here apart from what this query service knows of the fleet's members ([`history`]).

pub(crate) mod catalog;
pub(crate) mod cut;
pub(crate) mod history;
pub(crate) mod part;
pub(crate) mod poll;
pub(crate) mod scan;
pub(crate) mod services;
pub(crate) mod worker;
