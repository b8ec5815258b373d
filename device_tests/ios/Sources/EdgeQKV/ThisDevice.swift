import CryptoKit
import Darwin
import EdgeQKVCore
import Foundation
import os

/// What the system says of this process and of the device that it runs on.
public enum ThisDevice {
    /// The name of `footprintBytes` in a device report.
    public static let memoryFigure = "phys_footprint"

    /// This process's memory as its limit counts it, in bytes; a file's unchanged pages are not in it.
    @Sendable public static func footprintBytes() -> Int {
        var info = task_vm_info_data_t()
        var count = mach_msg_type_number_t(MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<natural_t>.size)
        let result = withUnsafeMutablePointer(to: &info) { pointer in
            pointer.withMemoryRebound(to: integer_t.self, capacity: Int(count)) {
                task_info(mach_task_self_, task_flavor_t(TASK_VM_INFO), $0, &count)
            }
        }
        return result == KERN_SUCCESS ? Int(info.phys_footprint) : 0
    }

    /// What this process may take in all, in bytes; nil on a Mac, which sets no limit.
    public static func limitBytes() -> Int? {
        #if os(macOS)
            nil
        #else
            footprintBytes() + Int(os_proc_available_memory())
        #endif
    }

    public static var device: Device {
        Device(name: machine, ramBytes: Int(ProcessInfo.processInfo.physicalMemory))
    }

    public static var system: Software {
        let version = ProcessInfo.processInfo.operatingSystemVersion
        #if os(macOS)
            let name = "macOS"
        #else
            let name = "iOS"
        #endif
        return Software(name: name, version: "\(version.majorVersion).\(version.minorVersion).\(version.patchVersion)")
    }

    public static var thermalState: String {
        switch ProcessInfo.processInfo.thermalState {
        case .nominal: "nominal"
        case .fair: "fair"
        case .serious: "serious"
        case .critical: "critical"
        @unknown default: "unknown"
        }
    }

    /// The maker's name of the model, such as `iPhone16,2`.
    private static var machine: String {
        var names = utsname()
        uname(&names)
        return withUnsafeBytes(of: &names.machine) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }
}

/// The SHA-256 of a file, in hexadecimal digits.
@Sendable public func sha256(of file: URL) throws -> String {
    SHA256.hash(data: try Data(contentsOf: file, options: .mappedIfSafe)).map { String(format: "%02x", $0) }.joined()
}
