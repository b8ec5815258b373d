// Signatures that the app uses of UniformTypeIdentifiers; APIS.md says where each was checked.

public struct UTType: Sendable {
    public static var folder: UTType { fatalError() }
}
