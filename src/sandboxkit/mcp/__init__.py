"""An MCP server whose tools work in one sandbox: `sandboxkit mcp`."""
