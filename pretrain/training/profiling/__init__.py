"""Where a step's time goes: shares of every step from its phase marks, and a trace on request."""
