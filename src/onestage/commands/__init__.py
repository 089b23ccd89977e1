"""The commands of the command line: their options are fields with help texts, and each calls one function."""
