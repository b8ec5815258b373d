/** How large the runtime's WebAssembly heap is. The runtime does not tell, so its memory is noted as it is made. */

let heap: WebAssembly.Memory | null = null;

/** Note the next memory that is made. To be called before the runtime is loaded. */
export function watchHeap(): void {
  const Original = WebAssembly.Memory;
  WebAssembly.Memory = class extends Original {
    constructor(descriptor: WebAssembly.MemoryDescriptor) {
      super(descriptor);
      if (descriptor.initial > 0) heap = this;
    }
  };
}

export function heapBytes(): number {
  return heap?.buffer.byteLength ?? 0;
}
