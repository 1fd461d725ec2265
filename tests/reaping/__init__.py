"""Who owns a sandbox, and the end of what nobody owns: the journal, the reaper, `gc`."""
