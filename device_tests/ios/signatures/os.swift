// Signatures that the package uses of the module os; APIS.md says where each was checked.

public func os_proc_available_memory() -> Int { fatalError() }
