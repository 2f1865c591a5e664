"""Stack files that were tried and are kept: each wrong one with what its message says, each unusual right one."""
