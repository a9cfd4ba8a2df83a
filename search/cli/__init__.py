"""Click commands: parse, call one pipeline, print."""
