// The macros of crt/host_defines.h that the CUDA headers use; the packages that torch installs lack this file.
#pragma once
#include <stddef.h>
#define __no_return__ __attribute__((noreturn))
#define __forceinline__ inline
#define __noinline__
#define __device_builtin__
#define __device_builtin_texture_type__
#define __device_builtin_surface_type__
#define __cudart_builtin__
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_align__(n) __align__(n)
#define __host__
#define __device__
#define __global__
#define __shared__
#define __constant__
#define __managed__
#define __inline_hint__
#define CUDARTAPI
#define CUDARTAPI_CDECL
#define CUDA_CB
