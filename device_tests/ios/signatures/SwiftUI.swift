// Signatures that the app uses of SwiftUI; APIS.md says where each was checked. What is generic over views there is
// often concrete here.
import Foundation
import UniformTypeIdentifiers

@MainActor @preconcurrency
public protocol View {
    associatedtype Body: View
    @ViewBuilder var body: Body { get }
}

extension Never: View {
    public typealias Body = Never
}

extension View where Body == Never {
    public var body: Never { return fatalError() }
}

extension Optional: View where Wrapped: View {
    public typealias Body = Never
}

public struct AnyPart: View {
    public typealias Body = Never
}

@resultBuilder
public struct ViewBuilder {
    public static func buildBlock<each Content: View>(_ content: repeat each Content) -> AnyPart { fatalError() }
    public static func buildIf<Content: View>(_ content: Content?) -> Content? { fatalError() }
    public static func buildEither<Content: View>(first content: Content) -> AnyPart { fatalError() }
    public static func buildEither<Content: View>(second content: Content) -> AnyPart { fatalError() }
}

@MainActor @preconcurrency
public protocol Scene {}

@MainActor @preconcurrency
public protocol App {
    associatedtype Body: Scene
    var body: Body { get }
    init()
}

extension App {
    public static func main() { fatalError() }
}

public struct WindowGroup: Scene {
    public init<Content: View>(@ViewBuilder content: () -> Content) { fatalError() }
}

@propertyWrapper
public struct Binding<Value> {
    public init(get: @escaping () -> Value, set: @escaping (Value) -> Void) { fatalError() }
    public var wrappedValue: Value {
        get { fatalError() }
        nonmutating set { fatalError() }
    }
}

@propertyWrapper
public struct State<Value> {
    public init(wrappedValue: Value) { fatalError() }
    public var wrappedValue: Value {
        get { fatalError() }
        nonmutating set { fatalError() }
    }
    public var projectedValue: Binding<Value> { fatalError() }
}

public struct HorizontalAlignment {
    public static var leading: HorizontalAlignment { fatalError() }
}

public enum Axis {
    case vertical
}

public struct Text: View {
    public init(_ content: some StringProtocol) { fatalError() }
    public typealias Body = Never
}

public struct TextField: View {
    public init(_ title: some StringProtocol, text: Binding<String>, axis: Axis) { fatalError() }
    public typealias Body = Never
}

public struct Slider: View {
    public init<V: BinaryFloatingPoint>(
        value: Binding<V>,
        in bounds: ClosedRange<V>,
        @ViewBuilder label: () -> some View
    ) { fatalError() }
    public typealias Body = Never
}

public struct Button: View {
    public init(_ title: some StringProtocol, action: @escaping @MainActor () -> Void) { fatalError() }
    public typealias Body = Never
}

public struct Toggle: View {
    public init(_ title: some StringProtocol, isOn: Binding<Bool>) { fatalError() }
    public typealias Body = Never
}

public struct ShareLink: View {
    public init(item: URL, @ViewBuilder label: () -> some View) { fatalError() }
    public typealias Body = Never
}

public struct ScrollView: View {
    public init(@ViewBuilder content: () -> some View) { fatalError() }
    public typealias Body = Never
}

public struct VStack: View {
    public init(alignment: HorizontalAlignment, spacing: CGFloat?, @ViewBuilder content: () -> some View) {
        fatalError()
    }
    public typealias Body = Never
}

public struct HStack: View {
    public init(spacing: CGFloat?, @ViewBuilder content: () -> some View) { fatalError() }
    public typealias Body = Never
}

public struct BorderedButtonStyle {}

extension BorderedButtonStyle {
    public static var bordered: BorderedButtonStyle { fatalError() }
}

extension View {
    public func padding() -> some View { AnyPart() }
    public func buttonStyle(_ style: BorderedButtonStyle) -> some View { AnyPart() }
    public func fileImporter(
        isPresented: Binding<Bool>,
        allowedContentTypes: [UTType],
        onCompletion: @escaping (Result<URL, any Error>) -> Void
    ) -> some View { AnyPart() }
}
