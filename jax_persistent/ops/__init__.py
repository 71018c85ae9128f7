"""Pure functions on arrays: the public operations, their reference, their derivatives."""
