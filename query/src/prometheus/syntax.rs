//! PromQL as text to PromQL as a tree. The parser is our own: the annotations that Prometheus returns name the line and
//! column of the expression they are about, ranges may be computed (`[5m * 2]`), and a text from outside must end in a
//! message and never in a panic or an overflowing stack; the parser crate at hand has neither positions nor those bounds.

pub(crate) mod ast;
pub(crate) mod lexer;
pub(crate) mod parser;
pub(crate) mod print;
pub(crate) mod signatures;

pub(crate) use ast::{Aggregate, At, Binary, BinaryOp, Cardinality, Expr, Node, Selector, Subquery, ValueType};
pub(crate) use parser::{SyntaxError, parse, parse_selector};
