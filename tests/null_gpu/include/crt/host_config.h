// Empty: see host_defines.h.
