// SPDX-License-Identifier: Apache-2.0
// How tests set up the GPU that is made of software, and look at what was asked of it.
//
// The library stands in for libcuda and for NVRTC: the package opens it by the names of its own
// environment variables, and has its kernels compiled by the real NVRTC, to PTX, which is run here.
// What it cannot show: how long anything takes, what ptxas makes of the PTX, and what the
// hardware's memory does beyond the delays that machine.h makes.
#pragma once

#include <cstdint>

extern "C" {

struct SoftwareDevice {
  int capability;  // 90 for sm_90
  int processors;
  int shared_bytes;    // a block can have
  int cluster_blocks;  // of the largest cluster; 1: none
  int l2_bytes;
  int cooperative;
};

// What has been called since the last reset.
struct SoftwareCounts {
  int64_t modules, functions, attributes, launches, fills, copies, queries, contexts;
  int64_t instructions;
};

// Replaces all devices, and forgets contexts and modules: sm_90 with 4 SMs at first.
void SoftwareGpuSetDevices(const SoftwareDevice* devices, int count);
void SoftwareGpuSetSeed(uint64_t seed);
void SoftwareGpuSetRoundNs(uint64_t nanoseconds);
void SoftwareGpuSetDelaysStores(int delays);
// Global memory that kernels may touch; none: all. Kept until it is cleared.
void SoftwareGpuAllowMemory(const void* first, uint64_t bytes);
void SoftwareGpuAllowAllMemory();
SoftwareCounts SoftwareGpuCounts(int resets);
// Modules, functions and contexts made, attributes set and devices asked by this thread so far.
int64_t SoftwareGpuPreparations();
// A stream of a device's primary context.
void* SoftwareGpuStream(int ordinal);
// What the last failing launch said; as a driver would print it on stderr.
const char* SoftwareGpuLastError();
// Makes a context that failed usable again, as no real one is.
void SoftwareGpuForgive();
}
