// Signatures that the package uses of Darwin's kernel interface, and of what only Apple's Foundation has; APIS.md says
// where each was checked.
import Foundation

public typealias kern_return_t = Int32
public typealias natural_t = UInt32
public typealias integer_t = Int32
public typealias task_flavor_t = natural_t
public typealias mach_msg_type_number_t = natural_t
public typealias task_name_t = UInt32
public typealias task_info_t = UnsafeMutablePointer<integer_t>

public let KERN_SUCCESS: Int32 = 0
public let TASK_VM_INFO: Int32 = 22
public nonisolated(unsafe) var mach_task_self_: task_name_t = 0

public struct task_vm_info_data_t {
    public var phys_footprint: UInt64 = 0
    public init() {}
}

public func task_info(
    _ target_task: task_name_t,
    _ flavor: task_flavor_t,
    _ task_info_out: task_info_t,
    _ task_info_outCnt: UnsafeMutablePointer<mach_msg_type_number_t>
) -> kern_return_t { fatalError() }

extension ProcessInfo {
    /// In Foundation, on Apple's systems alone.
    public enum ThermalState: Int {
        case nominal
        case fair
        case serious
        case critical
    }

    public var thermalState: ThermalState { fatalError() }
}

extension URL {
    /// In Foundation, on Apple's systems alone.
    public static var documentsDirectory: URL { fatalError() }
    public func startAccessingSecurityScopedResource() -> Bool { fatalError() }
    public func stopAccessingSecurityScopedResource() { fatalError() }
}
