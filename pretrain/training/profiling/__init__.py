"""Where a step's time goes: shares of every step from the marks of its phases, and a trace on request."""
