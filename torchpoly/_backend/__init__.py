"""Arrays, devices, validation, and the private names of other libraries."""
