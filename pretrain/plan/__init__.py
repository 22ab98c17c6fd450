"""Memory, time and cost of a layout, without the hardware that it is for."""
